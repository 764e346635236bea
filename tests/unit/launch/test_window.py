"""Waiting for a window, in reach of requests."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from leviathan_train.launch.window import wait_for_window
from leviathan_train.run.folder import Run
from leviathan_train.run.records import Ending, RequestKind


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
