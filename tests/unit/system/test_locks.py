"""A lock excludes other processes, dies with its holder, and survives its own removal."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from leviathan_train.system.locks import locked

HOLD = """
import sys
from pathlib import Path
from leviathan_train.system.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(file: Path) -> subprocess.Popen[str]:
    """Another process that holds the lock until it is killed."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", HOLD, str(file)]
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
    assert process.stdout and process.stdout.readline() == "held\n"
    return process


def test_a_lock_excludes_others_until_its_holder_is_killed(tmp_path: Path) -> None:
    file = tmp_path / "new" / "lock"
    with holder(file) as process:
        with pytest.raises(BlockingIOError), locked(file, wait=False):
            pass
        process.kill()
        process.wait()
        with locked(file, wait=False):
            pass


def test_a_lock_can_be_taken_again(tmp_path: Path) -> None:
    for _ in range(2):
        with locked(tmp_path / "lock", wait=False):
            pass


def test_who_waited_for_a_removed_lock_does_not_hold_it_beside_the_next(tmp_path: Path) -> None:
    file, taken, inside = tmp_path / "folder" / "lock", threading.Event(), threading.Event()

    def wait_for_it() -> None:
        with locked(file):
            taken.set()
            inside.wait(10)

    with locked(file):
        waiting = threading.Thread(target=wait_for_it)
        waiting.start()
        assert not taken.wait(0.2)
        shutil.rmtree(file.parent)
    assert taken.wait(10)
    with pytest.raises(BlockingIOError), locked(file, wait=False):
        pass
    inside.set()
    waiting.join()
