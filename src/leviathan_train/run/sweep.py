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
    for path in (*_temporary_files(run), *_half_made_sessions(run)):
        with contextlib.suppress(OSError):
            if now - path.stat().st_mtime > _STILL_WRITTEN:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                removed.append(path)
    return removed


def _temporary_files(run: Run) -> Iterator[Path]:
    """Files whose writer died before the rename, and probes of the file system's clock."""
    for folder in (run.path, run.records, run.verified, *(s.path for s in run.sessions())):
        yield from (path for path in folder.glob(f".*{TEMPORARY}") if path.is_file())
        yield from folder.glob(".clock-*")
    for session in run.sessions():
        yield from session.requests.folder.glob(f".*{TEMPORARY}")


def _half_made_sessions(run: Run) -> Iterator[Path]:
    """Folders whose maker died before it wrote the record of the start."""
    for session in run.sessions():
        if not session.launch_file.exists():
            yield session.path
