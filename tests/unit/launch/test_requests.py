"""Reaching a training that cannot take a request: its disk is full, or it has not begun."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from leviathan_train.errors import UsageError
from leviathan_train.launch import requests
from leviathan_train.run import liveness
from leviathan_train.run.folder import Run
from leviathan_train.run.records import Cause, Ending, Launch
from leviathan_train.run.session import Session
from leviathan_train.system.processes import Process
from support.disks import fill

TRAINER = """
import signal, sys, time
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: sys.exit(number))
print("up", flush=True)
time.sleep(600)
"""


@pytest.fixture
def trainer(small_disk: Path) -> Iterator[tuple[Session, subprocess.Popen[str]]]:
    """A process that the session knows as its trainer, on a disk of which no byte is free."""
    process = subprocess.Popen([sys.executable, "-c", TRAINER], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    process.stdout.readline()
    session = Run(small_disk / "run").open_session(Launch())
    session.add_process(Process.of(process.pid), "rank0")
    (session.path / "process-cli.json").unlink()
    fill(small_disk)
    yield session, process
    process.kill()
    process.communicate()


@pytest.mark.parametrize(
    ("cause", "number"), [(Cause.PERSON, signal.SIGINT), (Cause.SIGNAL, signal.SIGTERM)]
)
def test_a_pause_that_cannot_be_written_is_signalled(
    trainer: tuple[Session, subprocess.Popen[str]], cause: Cause, number: int
) -> None:
    session, process = trainer
    liveness.ask_to_pause(session, "the test", 60.0, cause)
    assert process.wait(60) == number


def test_a_trainer_is_killed_although_nothing_can_be_written(
    trainer: tuple[Session, subprocess.Popen[str]], small_disk: Path
) -> None:
    _, process = trainer
    done = requests.stop_now(Run(small_disk / "run"), "the test")
    assert process.wait(60) == -signal.SIGKILL
    assert done.end
    assert done.end.kind is Ending.KILLED


def test_a_save_before_the_first_step_says_what_is_waited_for(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.open_session(Launch(waiting_until=time.time() + 86400))
    with pytest.raises(UsageError, match="has not begun to train") as refused:
        requests.save(run, "a test")
    assert "It waits for its window, until " in str(refused.value.hint)
