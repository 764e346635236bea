"""The merge's own process, `leviathan_train.jobs.merge`: start it, follow it, explain its death."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from leviathan_train.checkpoints.seal import digest
from leviathan_train.errors import LeviathanError
from leviathan_train.merge.job import FileWritten, Job, Merged, Progress, Refused, decode
from leviathan_train.run.log import cause_in
from leviathan_train.system.files import sync_file
from leviathan_train.system.signals import NotedSignals


@dataclass(frozen=True)
class Settled:
    """A file of the merged model that is on disk: size in bytes and hash."""

    bytes: int
    sha256: str


def run_job(
    job: Job, log: Path, signals: NotedSignals, on_progress: Callable[[Progress], None]
) -> tuple[Merged, dict[str, Settled]]:
    """Run a merge's own process, and make each file durable that it is done with.

    Args:
        log: gets what the libraries print.
        signals: any of them ends the process.

    Returns:
        Its result, and the weight files by name.

    Raises:
        LeviathanError: it refused, failed, or a file on disk is not what it wrote.
        KeyboardInterrupt: a signal was noted; the process is gone.
    """
    job_file = Path(job.out).with_name("job.json")
    job.write(job_file)
    on_progress(Progress("loading", 0, 1))
    reader, writer = os.pipe()  # stdout is no channel: libraries write to it at import
    with log.open("ab") as stream, contextlib.closing(os.fdopen(reader)) as events:
        child = subprocess.Popen(
            [sys.executable, "-m", "leviathan_train.jobs.merge", str(job_file), str(writer)],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            pass_fds=[writer],
            start_new_session=True,  # Ctrl+C reaches us alone, and we end it
        )
        os.close(writer)
        signals.on_signal = lambda number: child.kill()
        if signals:  # noted before there was a child to end
            child.kill()
        try:
            merged, files = _hear(events, job, log, on_progress)
            status = child.wait()
        finally:
            child.kill()
            child.wait()
    if signals:
        raise KeyboardInterrupt
    if status == -signal.SIGKILL:
        why = "its process was killed by SIGKILL, possibly by the kernel's out-of-memory killer"
        raise explained(why, job, log)
    if status or merged is None:
        raise explained(cause_in(log)[0], job, log)
    return merged, files


def _hear(
    events: IO[str], job: Job, log: Path, on_progress: Callable[[Progress], None]
) -> tuple[Merged | None, dict[str, Settled]]:
    merged, files = None, {}
    for line in events:
        event = decode(line)
        if isinstance(event, Progress):
            on_progress(event)
        elif isinstance(event, FileWritten):
            wanted = None if job.prove == "none" else event.sha256
            size = settle(Path(job.out) / event.name, wanted)
            files[event.name] = Settled(size, event.sha256)
        elif isinstance(event, Refused):
            raise LeviathanError(event.message, event.hint or f"The whole log: {log}")
        else:
            merged = event
    return merged, files


def settle(file: Path, wanted: str | None) -> int:
    """Make a finished file readable for others, and durable; its size in bytes.

    Args:
        wanted: the hash that it must have, read from the disk again; None leaves that out.

    Raises:
        LeviathanError: it has another.
    """
    file.chmod(0o644)
    sync_file(file)
    if wanted:
        # What is on disk counts, not the pages in memory that were just written to it.
        with file.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if digest(file) != wanted:
            raise LeviathanError(
                f"{file.name}, read again from the disk, is not what was written to it."
                " The merged model was removed.",
                "Check the disk, then merge again:  dmesg shows its errors",
            )
    return file.stat().st_size


def explained(why: str, job: Job, log: Path) -> LeviathanError:
    """The error to show for what the process, or writing beside it, died of."""
    low, folder = why.lower(), Path(job.out).parents[1]
    if "no space left" in low or "os error 28" in low or "quota" in low:
        return LeviathanError(
            f"The disk of {folder} is full; the incomplete model was removed.",
            "Free some space there, or write it elsewhere:  --output DIR",
        )
    if "cuda" in low and "out of memory" in low:
        return LeviathanError(
            "The GPU has no memory left for the merge.",
            "Wait until it is free, or merge on the CPU:  CUDA_VISIBLE_DEVICES= leviathan merge",
        )
    return LeviathanError(f"The merge failed: {why}", f"The whole log: {log}")
