"""Trainings as jobs of a real Slurm: its time limit, its signals, preemption, a lost node."""

from __future__ import annotations

import itertools
import json
import math
import re
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from faults import bench
from faults.bench import Bench
from leviathan_train.run.folder import Run
from leviathan_train.run.records import Cause, Ending, RequestKind
from leviathan_train.run.session import Session
from leviathan_train.system.processes import wait_until
from support import slurm as support
from support.demo import PLUGIN, ROOT
from support.driver import LEVIATHAN, PATIENCE, differences, leviathan, training_state
from support.slurm import Slurm

WHY_NOT = support.missing()
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=f"no Slurm: {WHY_NOT}")

LAST = 40
SAVE_STEPS = 10


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory, env: dict[str, str]) -> Iterator[Slurm]:
    with support.running(tmp_path_factory.mktemp("slurm"), env) as started:
        yield started


def make_bench(folder: Path, last: int) -> Bench:
    """A run that was never disturbed, and its first checkpoint."""
    plugins = [PLUGIN, "support.pace.PacePlugin"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT / "tests"))
        return bench.make(folder, plugins=plugins, max_steps=last, save_steps=SAVE_STEPS)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Bench:
    return make_bench(tmp_path_factory.mktemp("straight") / "bench", LAST)


class Job:
    """A training that goes on from the first checkpoint of a bench, as a Slurm job.

    Args:
        after: shell commands that follow the training; without any it replaces the shell.
        path: what PATH is for the training.
    """

    def __init__(
        self,
        slurm: Slurm,
        made: Bench,
        folder: Path,
        *options: str,
        requeue: bool = True,
        pace: float = 0.3,
        after: str = "",
        path: str = "",
    ) -> None:
        self.slurm, self.made, self.folder = slurm, made, folder
        self.run = Run(folder / "run")
        made.copy(self.run.path)
        self._earlier = len(self.run.sessions())
        words = [LEVIATHAN, "train", str(made.config), *made.arguments(self.run.path)]
        words += ["--requeue"] * requeue
        lines = [
            "#!/bin/bash",
            f"export PYTHONPATH={shlex.quote(str(ROOT / 'tests'))} PACE={pace}",
            ("" if after else "exec ") + (f"env PATH={path} " if path else "") + shlex.join(words),
            after,
        ]
        script = folder / "job.sh"
        script.write_text("\n".join(lines))
        self.number = slurm.submit(script, "--ntasks=1", "--requeue", *options, cwd=folder)

    @property
    def output(self) -> str:
        return (self.folder / "out").read_text()

    @property
    def node(self) -> str:
        return self.slurm.job(self.number)["BatchHost"]

    def sessions(self) -> list[Session]:
        """Those of this job: one for each of its starts."""
        return self.run.sessions()[self._earlier :]

    def step(self, start: int, steps: int) -> int:
        """Wait until the start with this number (from 0) has done some steps of its own."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            sessions = self.sessions()
            if len(sessions) > start and (begin := sessions[start].begin):
                status = sessions[start].status
                if status and status.step >= begin.first_step + steps:
                    return status.step
            state = self.slurm.job(self.number)["JobState"]
            assert state in {"PENDING", "RUNNING", "COMPLETING"}, f"{state}: {self.output}"
            time.sleep(0.1)
        raise AssertionError(f"never came: {self.output}")

    def finish(self, seconds: float = PATIENCE) -> dict[str, str]:
        """Wait until the job has ended for good."""
        return self.slurm.finished(self.number, seconds)

    def must_be_as_undisturbed(self) -> None:
        """The job finished, and its result is that of the undisturbed run to the last bit."""
        assert self.finish()["JobState"] == "COMPLETED", self.output
        name = f"checkpoint-{self.made_last}"
        one, other = (
            training_state(run / name) for run in (self.made.folder / "run", self.run.path)
        )
        assert differences(one, other) == []

    @property
    def made_last(self) -> int:
        return max(
            int(path.name[11:]) for path in (self.made.folder / "run").glob("checkpoint-[0-9]*")
        )

    def steps_lost(self) -> int:
        """Steps that one start had done and the next did again, over all starts."""
        sessions = self.sessions()
        lost = 0
        for before, after in itertools.pairwise(sessions):
            if after.begin:
                lost += max(0, bench.last_logged(before.path) - after.begin.first_step)
        return lost

    def seconds_between(self) -> list[float]:
        """From the end of each start to the first new step of the next."""
        return [
            round(_first_logged(after) - before.end.at, 1)
            for before, after in itertools.pairwise(self.sessions())
            if before.end
        ]


def _first_logged(session: Session) -> float:
    line = session.metrics_file.read_text().splitlines()[0]
    return float(json.loads(line)["at"])


def wait_for_step(run: Run, output: Path) -> None:
    """Wait until a training has done a step of its own."""

    def has_step() -> bool:
        session = run.session()
        begin, status = (session.begin, session.status) if session else (None, None)
        return bool(begin and status and status.step > begin.first_step)

    assert wait_until(has_step, PATIENCE), output.read_text() if output.exists() else "no output"


@pytest.fixture(scope="module")
def limited(slurm: Slurm, straight: Bench, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A job with a time limit too short for the training, which goes on beside other tests.

    Slurm counts in minutes. On a busy machine a start alone may take some.
    """
    session = Run(straight.folder / "run").sessions()[-1]
    assert session.begin
    start = session.begin.at - session.launch.started
    minutes = math.ceil((3 * start + 15) / 60)
    pace = 1.2 * 60 * minutes / (LAST - bench.FIRST)
    folder = tmp_path_factory.mktemp("limited")
    return Job(slurm, straight, folder, f"--time={minutes}", pace=pace)


@pytest.mark.train
def test_a_warned_job_goes_back_into_the_queue_and_ends_as_if_undisturbed(
    limited: Job, slurm: Slurm, straight: Bench, tmp_path: Path
) -> None:
    job = Job(slurm, straight, tmp_path)
    job.step(0, 3)
    slurm.type("scancel", "--batch", "--signal=USR1", job.number)
    job.must_be_as_undisturbed()
    first, second = job.sessions()
    assert first.end and (first.end.kind, first.end.cause) == (Ending.PAUSED, Cause.SIGNAL)
    assert second.begin and second.begin.first_step == first.end.step
    assert f"Slurm job {job.number} goes back into the queue." in job.output
    assert slurm.job(job.number)["Restarts"] == "1"


@pytest.mark.train
def test_what_a_person_pauses_or_cancels_stays_so(
    slurm: Slurm, straight: Bench, tmp_path: Path, env: dict[str, str]
) -> None:
    for name in ("paused", "cancelled"):
        (tmp_path / name).mkdir()
    paused = Job(slurm, straight, tmp_path / "paused")
    paused.step(0, 1)
    leviathan("pause", paused.run.path, cwd=tmp_path, env=env, check=0)
    assert paused.finish()["ExitCode"] == "75:0", paused.output

    cancelled = Job(slurm, straight, tmp_path / "cancelled")
    cancelled.step(0, 1)
    slurm.type("scancel", cancelled.number)
    assert cancelled.finish()["JobState"] == "CANCELLED", cancelled.output
    (session,) = cancelled.sessions()
    assert session.end and session.end.kind is Ending.PAUSED

    for job in (paused, cancelled):
        assert slurm.job(job.number)["Restarts"] == "0"
        assert "goes back into the queue." not in job.output


@pytest.mark.train
def test_a_job_whose_time_is_over_goes_back_until_the_training_is_finished(limited: Job) -> None:
    limited.must_be_as_undisturbed()
    *interrupted, last = limited.sessions()
    assert interrupted and all(
        session.end and session.end.cause is Cause.DEADLINE for session in interrupted
    )
    assert last.end and last.end.kind is Ending.FINISHED
    assert limited.steps_lost() == 0
    assert re.search(rf"^Slurm job {limited.number} ends at .*", limited.output, re.M)


@pytest.mark.parametrize("name", ["slurm", "slurm_node", "slurm_array"])
def test_the_batch_scripts_of_the_documentation_are_accepted(slurm: Slurm, name: str) -> None:
    small = ("--cpus-per-task=1", "--mem=100M", "--gres=gpu:1")
    array = ("--array=1-2",) if name == "slurm_array" else ()
    slurm.type("sbatch", "--test-only", *small, *array, str(ROOT / f"docs/{name}.sbatch"))


# -- the long part -----------------------------------------------------------------------

PREEMPTIONS = 20


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Bench:
    """As `straight`, with steps for many interruptions."""
    return make_bench(tmp_path_factory.mktemp("long") / "bench", 120)


def preempt(job: Job) -> None:
    """Have a job of higher priority take the node of `job`, which can go on on the other."""
    words = ("--partition=high", f"--nodelist={job.node}", "--ntasks=1", "--wrap=sleep 10")
    number = job.slurm.type("sbatch", "--parsable", "--output=/dev/null", *words)
    job.slurm.wait_for(number, "RUNNING", "COMPLETED", seconds=PATIENCE)


@pytest.mark.slow
@pytest.mark.timeout(2 * 3600)
def test_a_job_that_is_preempted_twenty_times_ends_as_if_undisturbed(
    slurm: Slurm, long: Bench, tmp_path: Path
) -> None:
    job = Job(slurm, long, tmp_path, "--signal=B:USR1@60", pace=0.5)
    for number in range(PREEMPTIONS):
        job.step(number, 1)
        preempt(job)
    job.must_be_as_undisturbed()
    assert slurm.job(job.number)["Restarts"] == str(PREEMPTIONS)
    sessions = job.sessions()
    assert len(sessions) == PREEMPTIONS + 1
    ends = [(one.end.kind, one.end.why) for one in sessions[:-1] if one.end]
    assert ends == [(Ending.PAUSED, "SIGUSR1")] * PREEMPTIONS
    assert job.steps_lost() == 0
    print(f"Seconds from a pause to the first new step: {job.seconds_between()}")


@pytest.mark.slow
def test_a_job_that_is_preempted_without_a_warning_ends_as_if_undisturbed(
    slurm: Slurm, straight: Bench, tmp_path: Path
) -> None:
    job = Job(slurm, straight, tmp_path, "--partition=brief")
    job.step(0, 3)
    preempt(job)
    job.must_be_as_undisturbed()
    first, _ = job.sessions()
    assert first.end and (first.end.kind, first.end.why) == (Ending.PAUSED, "SIGTERM")
    assert job.steps_lost() == 0
    assert slurm.job(job.number)["Restarts"] == "1"


@pytest.mark.slow
def test_a_job_whose_node_dies_takes_its_run_over_at_once_on_the_other(
    slurm: Slurm, straight: Bench, tmp_path: Path
) -> None:
    job = Job(slurm, straight, tmp_path, requeue=False)
    step = job.step(0, 3)
    node = job.node
    slurm.switch_off(node)
    try:
        job.must_be_as_undisturbed()
    finally:
        slurm.switch_on(node)
    lost, second = job.sessions()
    assert lost.end is None
    assert {lost.host, second.host} == set(support.NODES)
    assert lost.asked and lost.asked.kind is RequestKind.KILL
    assert second.begin and step - second.begin.first_step <= SAVE_STEPS


@pytest.mark.slow
def test_where_scontrol_is_missing_the_batch_script_puts_the_job_back_by_the_line_that_is_told(
    slurm: Slurm, straight: Bench, tmp_path: Path
) -> None:
    line = 'code=$?; [ $code -eq 75 ] && scontrol requeue "$SLURM_JOB_ID"; exit $code'
    job = Job(slurm, straight, tmp_path, path=str(Path(sys.executable).parent), after=line)
    job.step(0, 3)
    # The shell, which has no handler, must live on.
    slurm.on(job.node, "kill", "-USR1", str(job.sessions()[0].processes()["cli"].pid))
    job.must_be_as_undisturbed()
    assert len(job.sessions()) == 2
    assert job.output.count(f"line after the training's:  {line}\n") == 3  # at starts and pause


@pytest.mark.slow
def test_tasks_of_an_array_train_runs_of_their_own_by_the_script_of_the_documentation(
    slurm: Slurm, straight: Bench, tmp_path: Path
) -> None:
    (tmp_path / ".venv").symlink_to(Path(sys.executable).parents[1])
    values = yaml.safe_load(straight.config.read_text())
    for name in ("a", "b"):
        changed = {"output_dir": str(tmp_path / f"run_{name}"), "max_steps": 6}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(values | changed))
    script = ROOT / "docs/slurm_array.sbatch"
    own = ("--array=1-2", "--mem=100M", "--cpus-per-task=1", f"--chdir={tmp_path}")
    environ = f"--export=ALL,PYTHONPATH={ROOT / 'tests'},PACE=1"
    number = slurm.type("sbatch", "--parsable", *own, environ, str(script), "a.yaml", "b.yaml")
    outputs = [tmp_path / f"slurm-{number}_{task}.out" for task in (1, 2)]
    for run, output in zip(("run_a", "run_b"), outputs, strict=True):
        wait_for_step(Run(tmp_path / run), output)
    slurm.type("scancel", "--batch", "--signal=USR1", f"{number}_2")
    for task, output, restarts in zip((1, 2), outputs, "01", strict=True):
        job = slurm.finished(f"{number}_{task}", PATIENCE)
        assert (job["JobState"], job["Restarts"]) == ("COMPLETED", restarts), output.read_text()


@pytest.mark.slow
def test_the_script_of_the_documentation_trains_a_run_to_its_end(
    slurm: Slurm, straight: Bench, tmp_path: Path
) -> None:
    (tmp_path / ".venv").symlink_to(Path(sys.executable).parents[1])
    values = yaml.safe_load(straight.config.read_text())
    run = Run(tmp_path / "run")
    changed = {"output_dir": str(run.path), "max_steps": 6}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(values | changed))
    small = ("--mem=100M", "--cpus-per-task=1", f"--chdir={tmp_path}")
    environ = f"--export=ALL,PYTHONPATH={ROOT / 'tests'},PACE=1"
    script = str(ROOT / "docs/slurm.sbatch")
    number = slurm.type("sbatch", "--parsable", *small, environ, script, "c.yaml")
    output = tmp_path / f"slurm-{number}.out"
    wait_for_step(run, output)
    slurm.type("scancel", "--batch", "--signal=USR1", number)
    job = slurm.finished(number, PATIENCE)
    assert (job["JobState"], job["Restarts"]) == ("COMPLETED", "1"), output.read_text()
