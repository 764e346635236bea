"""What a start will read from disk, brought into memory beside the checks and the questions."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading


def read_ahead() -> None:
    """Read in a process of its own what the last start read; see `system.readahead`."""
    argv = [sys.executable, "-m", "leviathan_train.jobs.read_ahead"]
    quiet = subprocess.DEVNULL
    with contextlib.suppress(OSError):
        child = subprocess.Popen(
            argv, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True
        )
        threading.Thread(target=child.wait, daemon=True).start()
