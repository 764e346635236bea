"""Waiting for a window, in reach of requests."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from leviathan_train.launch.window import wait_for_window
from leviathan_train.run.folder import Run
from leviathan_train.run.records import Cause, Ending, RequestKind
from leviathan_train.system.signals import NotedSignals


def test_a_wait_that_is_over_leaves_no_session(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert wait_for_window(run, Path("c.yaml"), time.time() + 0.2) is None
    assert run.session() is None


def test_a_request_ends_the_waiting(tmp_path: Path) -> None:
    run = Run(tmp_path)

    def ask() -> None:
        while (session := run.session()) is None or not session.status_file.exists():
            time.sleep(0.01)
        session.ask(RequestKind.PAUSE, "somebody")

    thread = threading.Thread(target=ask)
    thread.start()
    end = wait_for_window(run, Path("c.yaml"), time.time() + 60)
    thread.join()
    assert end and (end.kind, end.why) == (Ending.STOPPED, "somebody")


@pytest.mark.parametrize(
    ("number", "cause"), [(signal.SIGINT, Cause.PERSON), (signal.SIGUSR1, Cause.SIGNAL)]
)
def test_a_signal_ends_the_waiting(tmp_path: Path, number: signal.Signals, cause: Cause) -> None:
    run = Run(tmp_path)

    def send() -> None:
        while (session := run.session()) is None or not session.status_file.exists():
            time.sleep(0.01)
        time.sleep(0.3)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    with NotedSignals((number,)):  # if it came too early
        thread.start()
        end = wait_for_window(run, Path("c.yaml"), time.time() + 60)
        thread.join()
    assert end and (end.kind, end.cause) == (Ending.STOPPED, cause)
