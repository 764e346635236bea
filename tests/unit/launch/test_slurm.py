"""A training in a Slurm job, with a clock, an environment and a Slurm of the test's own."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from leviathan_train.launch.on_end import on_end
from leviathan_train.launch.schedule import TimeLimit
from leviathan_train.launch.slurm import Allocation
from leviathan_train.run.folder import Run
from leviathan_train.run.records import Begin, Cause, End, Ending, Launch, RequestKind
from leviathan_train.system.files import write_json
from leviathan_train.system.slurm import SlurmJob
from support.demo import MakeConfig
from support.driver import leviathan

NOW = 1_800_000_000.0
JOB = {"SLURM_JOB_ID": "12", "SLURM_CLUSTER_NAME": "c"}
ARRAY = {"SLURM_JOB_ID": "15", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3"}
RUNNING = "JobId=12 JobName=a b JobState=RUNNING Reason=None Restarts=0 PreemptTime=None"
REQUEUE = ("scontrol", "requeue", "12")
WARNED = End(Ending.PAUSED, 9, "checkpoint-9", "SIGUSR1", NOW, Cause.SIGNAL)


class Slurm:
    """Answers as the test says, and notes what it was asked to do.

    Attributes:
        failures: what the next questions fail by.
    """

    def __init__(self, facts: str = RUNNING, *failures: OSError) -> None:
        self.facts = facts
        self.failures = list(failures)
        self.orders: list[Sequence[str]] = []
        self.told: list[str] = []

    def ask(self, argv: Sequence[str]) -> str:
        if self.failures:
            raise self.failures.pop(0)
        if "show" in argv:
            return self.facts
        self.orders.append(argv)
        return ""

    def allocation(
        self, environ: Mapping[str, str] = JOB, *, requeue: bool = True, restarts: int = 0
    ) -> Allocation:
        job = SlurmJob.of(environ)
        assert job
        return Allocation(
            replace(job, restarts=restarts),
            environ,
            requeue=requeue,
            ask=self.ask,
            now=lambda: NOW,
            monotonic=lambda: 500.0,
            sleep=lambda seconds: None,
        )

    def limit(self, typed: TimeLimit, *, requeue: bool = True) -> TimeLimit:
        return self.allocation(requeue=requeue).limit(typed, self.told.append)


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    for key, value in JOB.items():
        monkeypatch.setenv(key, value)
    return Run(tmp_path / "run")


def begun(run: Run, first_step: int = 5) -> None:
    """A session of the job that has begun to train."""
    session = run.open_session(Launch())
    write_json(session.begin_file, asdict(Begin(NOW, first_step)))


@pytest.mark.parametrize(
    ("environ", "job"),
    [
        ({}, None),
        ({"SLURM_RESTART_COUNT": "2"}, None),
        (JOB, SlurmJob("12", "c", 0)),
        (JOB | {"SLURM_RESTART_COUNT": "2"}, SlurmJob("12", "c", 2)),
        (JOB | {"SLURM_RESTART_COUNT": "many"}, SlurmJob("12", "c", 0)),
        (ARRAY, SlurmJob("12_3", "", 0)),
    ],
)
def test_the_job_is_known_by_its_environment(
    environ: Mapping[str, str], job: SlurmJob | None
) -> None:
    assert SlurmJob.of(environ) == job


# -- the time limit ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "at"),
    [
        (TimeLimit(), NOW + 600),
        (TimeLimit(at=NOW + 500), NOW + 500),
        (TimeLimit(at=NOW + 700), NOW + 600),
        (TimeLimit(monotonic_at=500.0 + 500), None),
        (TimeLimit(monotonic_at=500.0 + 700), NOW + 600),
    ],
)
def test_the_sooner_of_the_jobs_end_and_the_typed_limit_counts(
    typed: TimeLimit, at: float | None
) -> None:
    slurm = Slurm(f"{RUNNING} EndTime={NOW + 600:.0f}")
    assert slurm.limit(typed, requeue=False) == replace(typed, at=at)
    assert len(slurm.told) == (at == NOW + 600)


def test_a_job_that_goes_back_is_done_early_enough_to_ask_for_it() -> None:
    slurm = Slurm(f"{RUNNING} EndTime={NOW + 600:.0f}")
    at = slurm.limit(TimeLimit()).at
    assert at is not None and NOW + 500 < at <= NOW + 590
    assert len(slurm.told) == 1 and slurm.told[0].startswith("Slurm job 12 ends at ")


@pytest.mark.parametrize("end", ["Unknown", "None", "", f"{NOW + 365 * 86400:.0f}"])
def test_a_job_without_a_limit_has_none(end: str) -> None:
    slurm = Slurm(f"{RUNNING} EndTime={end}")
    assert slurm.limit(TimeLimit()) == TimeLimit()
    assert slurm.told == []


def test_without_scontrol_the_environment_tells_the_end() -> None:
    slurm = Slurm("", FileNotFoundError("scontrol"))
    environ = JOB | {"SLURM_JOB_END_TIME": f"{NOW + 600:.0f}"}
    allocation = slurm.allocation(environ, requeue=False)
    assert allocation.limit(TimeLimit(), slurm.told.append) == TimeLimit(at=NOW + 600)


def test_an_end_that_nobody_tells_is_told_with_what_to_do() -> None:
    slurm = Slurm("", FileNotFoundError("scontrol"))
    assert slurm.limit(TimeLimit(), requeue=False) == TimeLimit()
    (line,) = slurm.told
    assert "scontrol is not on the PATH" in line and "--signal=B:USR1@120" in line


# -- what is put back --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "cause", "interrupted"),
    [
        (Ending.PAUSED, Cause.SIGNAL, True),
        (Ending.STOPPED, Cause.SIGNAL, True),
        (Ending.KILLED, Cause.SIGNAL, True),
        (Ending.PAUSED, Cause.PERSON, False),
        (Ending.KILLED, Cause.PERSON, False),
        (Ending.FINISHED, Cause.DONE, False),
        (Ending.FINISHED, Cause.SIGNAL, False),
        (Ending.CRASHED, Cause.FAULT, False),
        (Ending.PAUSED, Cause.DEADLINE, False),  # that of --until
        (Ending.STOPPED, Cause.DEADLINE, False),
    ],
)
def test_only_what_slurm_interrupted_is_put_back(
    run: Run, kind: Ending, cause: Cause, interrupted: bool
) -> None:
    begun(run)
    end = End(kind, 9, None, "", NOW, cause)
    assert Slurm().allocation().is_interrupted(run, end) is interrupted
    assert not Slurm().allocation(requeue=False).is_interrupted(run, end)


@pytest.mark.parametrize(("cause", "interrupted"), [(Cause.SIGNAL, True), (Cause.PERSON, False)])
def test_a_trainer_that_hung_is_judged_by_who_asked(
    run: Run, cause: Cause, interrupted: bool
) -> None:
    begun(run)
    session = run.session()
    assert session
    session.ask(RequestKind.PAUSE, "somebody", cause=cause)
    end = End(Ending.KILLED, 9, None, "no step ended", NOW, Cause.HUNG)
    assert Slurm().allocation().is_interrupted(run, end) is interrupted


@pytest.mark.parametrize(
    ("facts", "cause"),
    [
        (RUNNING, Cause.DEADLINE),
        ("JobState=COMPLETING Reason=TimeLimit Restarts=0", Cause.SIGNAL),
    ],
)
@pytest.mark.parametrize(("step", "ordered"), [(6, True), (5, False), (None, False)])
def test_a_time_limit_too_short_for_a_step_does_not_start_the_job_for_ever(
    run: Run, facts: str, cause: Cause, step: int | None, ordered: bool
) -> None:
    begun(run, first_step=5)
    slurm = Slurm(f"{facts} EndTime={NOW + 600:.0f}")
    allocation = slurm.allocation()
    allocation.limit(TimeLimit(), slurm.told.append)
    end = End(Ending.PAUSED, step, None, "", NOW, cause)
    assert allocation.is_interrupted(run, end)
    allocation.put_back(run, end, slurm.told.append)
    assert slurm.orders == [REQUEUE] * ordered
    assert "does not go back" in slurm.told[-1] or ordered


@pytest.mark.parametrize(
    ("facts", "ordered", "told"),
    [
        ("JobState=RUNNING Restarts=0", True, "goes back"),
        ("JobState=COMPLETING Reason=TimeLimit Restarts=0", True, "goes back"),
        ("JobState=TIMEOUT Reason=TimeLimit Restarts=0", True, "goes back"),
        ("JobState=COMPLETING Restarts=0 PreemptTime=1800000000", True, "goes back"),
        ("JobState=PREEMPTED Reason=None Restarts=0", True, "goes back"),
        ("JobState=COMPLETING Restarts=0 PreemptTime=None", False, "it was cancelled"),
        ("JobState=CANCELLED Restarts=0", False, "it was cancelled"),
        ("JobState=COMPLETING Reason=None Restarts=1", False, "goes back"),  # Slurm did it
        ("JobState=PENDING Restarts=1", False, "goes back"),
        ("", True, "goes back"),
    ],
)
def test_a_job_is_put_back_unless_slurm_did_or_somebody_cancelled_it(
    run: Run, facts: str, ordered: bool, told: str
) -> None:
    begun(run)
    slurm = Slurm(facts)
    slurm.allocation().put_back(run, WARNED, slurm.told.append)
    assert slurm.orders == [REQUEUE] * ordered
    assert len(slurm.told) == 1 and told in slurm.told[0]


def test_a_task_of_an_array_is_put_back_alone(run: Run) -> None:
    slurm = Slurm()
    slurm.allocation(ARRAY).put_back(run, WARNED, slurm.told.append)
    assert slurm.orders == [("scontrol", "requeue", "12_3")]


def test_a_controller_that_restarts_is_asked_again(run: Run) -> None:
    slurm = Slurm(RUNNING, OSError("no answer"), OSError("no answer"))
    slurm.allocation().put_back(run, WARNED, slurm.told.append)
    assert slurm.orders == [REQUEUE]


def test_a_refusal_is_told_with_what_to_do(run: Run) -> None:
    slurm = Slurm(RUNNING, *[OSError("Requested operation is presently disabled")] * 9)
    slurm.allocation().put_back(run, WARNED, slurm.told.append)
    assert "presently disabled" in slurm.told[0]
    assert "#SBATCH --requeue" in slurm.told[1]


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        (JOB, "$SLURM_JOB_ID"),
        (ARRAY, "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"),
    ],
)
@pytest.mark.parametrize("status", [0, 1, 75])
def test_without_scontrol_the_line_for_the_batch_script_is_told(
    run: Run, environ: Mapping[str, str], name: str, status: int
) -> None:
    slurm = Slurm("", FileNotFoundError("scontrol"))
    slurm.allocation(environ).put_back(run, WARNED, slurm.told.append)
    line = slurm.told[0].partition(":  ")[2]
    assert name in line
    # As it works in a script: it puts back what was paused, and keeps the exit status.
    script = f"scontrol() {{ echo $*; }}; (exit {status}); {line}"
    done = subprocess.run(["bash", "-c", script], env=environ, capture_output=True, text=True)
    job = SlurmJob.of(environ)
    assert job
    assert done.returncode == status
    assert done.stdout == (f"requeue {job.name}\n" if status == 75 else "")


# -- the next start ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("restarts", "choice", "taken"),
    [
        (0, "ask", "auto"),
        (0, "never", "never"),
        (1, "never", "auto"),
        (1, "40", "auto"),
        (1, "auto", "auto"),
    ],
)
def test_what_to_resume_from_counts_for_the_jobs_first_start(
    run: Run, restarts: int, choice: str, taken: str
) -> None:
    begun(run)
    told: list[str] = []
    allocation = Slurm().allocation(restarts=restarts)
    assert allocation.choice(run, choice, told.append) == taken
    assert bool(told) is (choice in {"never", "40"} and taken == "auto")


def test_a_start_that_never_trained_leaves_the_choice_to_the_next(run: Run) -> None:
    run.open_session(Launch())
    assert Slurm().allocation(restarts=1).choice(run, "never", print) == "never"


def test_without_requeue_a_terminal_is_still_asked(run: Run) -> None:
    assert Slurm().allocation(requeue=False).choice(run, "ask", print) == "ask"


# -- the command -------------------------------------------------------------------------


def test_outside_of_slurm_it_is_a_usage_error(make_config: MakeConfig, tmp_path: Path) -> None:
    env = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
    done = leviathan("train", make_config(tmp_path), "--requeue", cwd=tmp_path, env=env, check=2)
    assert "SLURM_JOB_ID is not set" in done.stderr
    assert len(done.stderr.splitlines()) == 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it lives on
def test_a_command_at_the_end_cannot_keep_the_job_from_going_back(tmp_path: Path) -> None:
    told: list[str] = []
    with on_end("exec sleep 3", Run(tmp_path), told.append) as result:
        result.end, result.patience = End(Ending.PAUSED), 0.1
    assert len(told) == 1 and told[0].startswith("No longer waiting for --on-end")
