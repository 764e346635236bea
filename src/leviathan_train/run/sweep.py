"""Removing what killed processes left in a run's records: temporary files, empty sessions."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from leviathan_train.run.folder import Run
from leviathan_train.run.liveness import file_system_time
from leviathan_train.system.files import TEMPORARY

_STILL_WRITTEN = 60.0
"""Seconds in which another process may still be writing a temporary file."""


def sweep(run: Run) -> list[Path]:
    """Remove the run's own leftovers; what refuses is left for the next time.

    Call it while no session is live, or from the one that has just been opened.

    Returns:
        What was removed.
    """
    if not run.records.is_dir():
        return []
    now = file_system_time(run.records)
    removed = []
    for path in list(_leftovers(run)):
        with contextlib.suppress(OSError):
            if now - path.stat().st_mtime > _STILL_WRITTEN:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                removed.append(path)
    return removed


def _leftovers(run: Run) -> Iterator[Path]:
    sessions = run.sessions()
    folders = [run.path, run.records, run.verified]
    folders += [folder for one in sessions for folder in (one.path, one.requests.folder)]
    for folder in folders:
        # A writer died before the rename, or a probe of the file system's clock was left.
        yield from (path for path in folder.glob(f".*{TEMPORARY}") if path.is_file())
        yield from folder.glob(".clock-*")
    # Whoever made the folder died before it wrote the record of the start.
    yield from (one.path for one in sessions if not one.launch_file.exists())
