"""The records of sessions: who wins, who lives, and what a start sweeps away."""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leviathan_train.errors import LeviathanError, UsageError
from leviathan_train.run import liveness, lookup, records
from leviathan_train.run.folder import Run
from leviathan_train.run.records import (
    Cause,
    End,
    Ending,
    Launch,
    Phase,
    Request,
    RequestKind,
    Status,
)
from leviathan_train.run.session import Session
from leviathan_train.run.sweep import sweep
from leviathan_train.system.processes import SESSION_ENV
from leviathan_train.system.slurm import SlurmJob


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


def close(path: Path, number: int, gate: Any, told: Any) -> None:
    gate.wait()
    told.put(Session(path).close(End(Ending.CRASHED, number, None, "", 0.0)).step)


def test_of_ends_recorded_at_once_the_first_stands_and_all_learn_of_it(run: Run) -> None:
    session = run.open_session(Launch())
    gate = multiprocessing.Event()
    told: multiprocessing.Queue[int] = multiprocessing.Queue()
    ranks = [
        multiprocessing.Process(target=close, args=(session.path, n, gate, told)) for n in range(8)
    ]
    for rank in ranks:
        rank.start()
    gate.set()
    answers = {told.get(timeout=30) for _ in ranks}
    for rank in ranks:
        rank.join()
    assert session.end
    assert answers == {session.end.step}


def test_a_second_session_is_refused_while_the_first_lives(run: Run) -> None:
    run.open_session(Launch())
    with pytest.raises(LeviathanError, match=f"process {os.getpid()}"):
        run.open_session(Launch())


def test_sessions_of_one_second_have_names_of_their_own(run: Run) -> None:
    first = run.open_session(Launch())
    first.close(End(Ending.STOPPED, None, None, "", 0.0))
    (first.path / "process-cli.json").unlink()
    second = run.open_session(Launch())
    assert second.id != first.id
    assert run.session() == second


# -- another host ----------------------------------------------------------------------


def elsewhere(run: Run, heard: float) -> Session:
    """A session on another host that was heard of `heard` seconds ago."""
    session = run.open_session(Launch())
    launch = json.loads(session.launch_file.read_text()) | {"host": "elsewhere"}
    session.launch_file.write_text(json.dumps(launch))
    os.utime(session.launch_file, (time.time() - heard, time.time() - heard))
    (session.path / "process-cli.json").unlink()  # its processes are not this host's
    return session


def test_after_the_clock_was_set_back_the_newest_session_is_still_the_newest(run: Run) -> None:
    tomorrow = time.strftime("%Y%m%d_%H%M%S", time.localtime(time.time() + 86400))
    for name in (tomorrow, f"{tomorrow}_9", f"{tomorrow}_10"):
        Session(run.sessions_folder / name).path.mkdir(parents=True)
    session = run.open_session(Launch())
    assert session.id == f"{tomorrow}_11"
    assert run.session() == session
    with pytest.raises(LeviathanError, match="already training"):
        run.open_session(Launch())


@pytest.mark.parametrize(("heard", "lives"), [(30, True), (300, False)])
def test_a_session_on_another_host_lives_by_its_heartbeat(
    run: Run, heard: float, lives: bool
) -> None:
    assert liveness.alive(elsewhere(run, heard)) is lives


@pytest.mark.parametrize("skew", [-3600, 3600])
def test_a_clock_that_differs_from_the_file_servers_is_no_reason_to_think_a_session_dead(
    run: Run, skew: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = elsewhere(run, 30)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + skew)
    assert liveness.alive(session)
    assert not list(session.path.glob(".clock-*"))


def test_a_session_of_this_host_is_known_by_its_processes(run: Run) -> None:
    session = run.open_session(Launch())
    assert session.is_here()
    assert session.host == socket.gethostname()
    assert liveness.alive(session)


# -- the same Slurm job, started again -----------------------------------------------------


def test_the_environment_may_be_another_object_by_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", copy.deepcopy(os.environ))  # as datasets does
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    job = SlurmJob.of()
    assert job and job.name == "12"


@pytest.mark.parametrize("here", [True, False])
def test_the_next_start_of_a_slurm_job_takes_its_run_over_at_once(
    run: Run, monkeypatch: pytest.MonkeyPatch, here: bool
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    lost = run.open_session(Launch()) if here else elsewhere(run, heard=1)
    assert liveness.alive(lost)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert not liveness.alive(lost)
    session = run.open_session(Launch())
    assert liveness.alive(session)
    # A host that Slurm had lost may come back with its trainer.
    assert (lost.asked is not None and lost.asked.kind is RequestKind.KILL) is not here


@pytest.mark.parametrize(
    "changed",
    [
        {"SLURM_RESTART_COUNT": "1", "SLURM_JOB_ID": "13"},
        {"SLURM_RESTART_COUNT": "1", "SLURM_CLUSTER_NAME": "another"},
        {},  # another task of the same start
    ],
)
def test_another_slurm_job_does_not_take_a_run_over(
    run: Run, monkeypatch: pytest.MonkeyPatch, changed: dict[str, str]
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    session = elsewhere(run, heard=1)
    for key, value in changed.items():
        monkeypatch.setenv(key, value)
    assert liveness.alive(session)
    with pytest.raises(LeviathanError, match="already training"):
        run.open_session(Launch())


# -- what is left behind ---------------------------------------------------------------


def test_an_orphan_of_any_earlier_session_is_ended_by_a_start(run: Run) -> None:
    dead = run.sessions_folder.resolve() / "20200101_000000"
    dead.mkdir(parents=True)
    orphan = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"],
        env=os.environ | {SESSION_ENV: str(dead)},
    )
    stranger = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"],
        env=os.environ | {SESSION_ENV: str(run.path.resolve()) + "_2/.leviathan/sessions/1"},
    )
    time.sleep(0.2)
    run.open_session(Launch())
    assert orphan.wait(10) == -9
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()


def test_a_start_sweeps_what_killed_processes_left(run: Run) -> None:
    session = run.open_session(Launch())
    half = run.sessions_folder / "20200101_000000"
    half.mkdir()
    old = [session.path / ".status.json.abc.tmp", run.records / ".x.def.tmp", half]
    young = session.path / ".end.json.abc.tmp"
    mine = run.path / "notes.tmp"
    for file in (*old[:2], young, mine):
        file.write_text("half")
    for path in (*old, mine):
        os.utime(path, (1e9, 1e9))
    assert set(sweep(run)) == set(old)
    assert young.exists()
    assert mine.exists()
    assert session.launch_file.exists()


# -- records ---------------------------------------------------------------------------


def test_a_record_of_another_version_is_read() -> None:
    value = {"run": "a", "phase": "training", "step": 5, "of_the_future": [1], "loss": "much"}
    assert records.from_json(Status, value) == Status("a", Phase.TRAINING, step=5)


def test_an_end_of_version_0_1_0_is_read() -> None:
    old = {"kind": "paused", "step": 6, "checkpoint": "checkpoint-6", "why": "Ctrl+C", "at": 1.5}
    known = End(Ending.PAUSED, 6, "checkpoint-6", "Ctrl+C", 1.5, Cause.UNKNOWN)
    assert records.from_json(End, old) == known


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@settings(deadline=None)  # other work may share the machine
@given(st.dictionaries(st.sampled_from(sorted(vars(Launch()))), json_values))
def test_no_garbage_breaks_the_loader(value: dict[str, Any]) -> None:
    found = records.from_json(Launch, value)
    assert (found is None) == (not value)
    if found:
        assert isinstance(found.argv, tuple)
        assert isinstance(found.cli, bool)
        assert found.until is None or isinstance(found.until, float)


@settings(deadline=None)  # other work may share the machine
@given(json_values)
def test_what_is_no_object_is_no_record(value: Any) -> None:
    found = records.from_json(Request, value)
    assert found is None or isinstance(value, dict)


# -- which run is meant ----------------------------------------------------------------


def test_a_folder_that_is_no_run_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root")
    with pytest.raises(UsageError, match="is not a run"):
        lookup.find(str(tmp_path / "etc"))


def test_a_name_that_means_two_runs_asks_for_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("demo", "work/training/demo"):
        (tmp_path / folder / "checkpoint-1").mkdir(parents=True)
    with pytest.raises(UsageError, match="means two runs"):
        lookup.find("demo")
    assert lookup.find("./demo").path == Path("demo")
    assert lookup.find("work/training/demo").path == Path("work/training/demo")


def test_a_folder_of_the_same_name_that_is_no_run_does_not_hide_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo/notes").write_text("mine")
    (tmp_path / "work/training/demo/checkpoint-1").mkdir(parents=True)
    assert lookup.find("demo").path == Path("work/training/demo")
