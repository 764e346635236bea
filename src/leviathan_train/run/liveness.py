"""Whether a session lives, and ending what is left of one."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import time
from pathlib import Path

from leviathan_train.run.records import Cause, RequestKind
from leviathan_train.run.session import Session
from leviathan_train.system import processes
from leviathan_train.system.slurm import SlurmJob

HEARTBEAT_LOST = 120.0
"""Seconds without a sign of life after which a session on another host counts as dead."""


def trainer_alive(session: Session) -> bool:
    """Whether a process of the training itself lives; of another host, by its heartbeat."""
    if not session.is_here():
        return session.end is None and _heard_of(session)
    return any(process.alive() for role, process in session.processes().items() if role != "cli")


def alive(session: Session) -> bool:
    """Whether the session goes on: one of its processes lives."""
    if session.end is not None and not session.is_here():
        return False
    if of_earlier_start(session):
        return False
    return trainer_alive(session) or (session.end is None and command_alive(session))


def of_earlier_start(session: Session) -> bool:
    """Whether the session is of an earlier start of the Slurm job that this process is part of.

    It counts as dead whatever it looks like: Slurm starts a job again when it has killed the
    earlier start, or has given up its host. What still lives of it here is an orphan.
    """
    job, launch = SlurmJob.of(), session.launch
    return job is not None and launch.slurm_job == job.id and launch.slurm_restarts < job.restarts


def command_alive(session: Session) -> bool:
    """Whether the command line that started the session lives."""
    cli = session.processes().get("cli")
    return bool(cli and cli.alive())


def _heard_of(session: Session) -> bool:
    """Whether the trainer gave a sign of life lately, by the clock of the file system.

    The local clock may differ from that of the machine which keeps the files.
    """
    latest = 0.0
    for path in (session.status_file, session.launch_file):
        with contextlib.suppress(OSError):
            latest = max(latest, path.stat().st_mtime)
    return file_system_time(session.path) - latest < HEARTBEAT_LOST


def file_system_time(folder: Path) -> float:
    """What the file system of `folder` takes for now, in seconds since the epoch.

    Where nothing may be written there, it is the local clock.
    """
    probe = folder / f".clock-{secrets.token_hex(4)}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


def ask_to_pause(session: Session, by: str, grace: float, cause: Cause) -> None:
    """Leave a request to pause; where the disk has no room for it, a signal says the same.

    Raises:
        OSError: neither could be done.
    """
    try:
        session.ask(RequestKind.PAUSE, by, grace, cause)
    except OSError:
        named = sorted(session.processes().items())
        ranks = [one for role, one in named if role.startswith("rank") and one.alive()]
        if not ranks:  # none on this host
            raise
        os.kill(ranks[0].pid, signal.SIGTERM if cause is Cause.SIGNAL else signal.SIGINT)


def stragglers(session: Session, machine: int | None) -> set[int]:
    """Pids of every live process of the training, orphans included, but the command line's.

    Args:
        machine: only what was started as this one of several machines; all that are here if
            None.
    """
    pids = set(processes.of_session(session.path, machine))
    named = dict(session.processes())
    cli = named.pop("cli", None)
    if machine is None:
        pids |= {process.pid for process in named.values() if process.alive()}
    for pid in list(pids):
        pids |= set(processes.descendants(pid))
    return pids - {os.getpid()} - ({cli.pid} if cli and session.is_here() else set())


def kill(session: Session, machine: int | None = None) -> None:
    """Kill every process of the training, or of one machine of it, and see them gone."""
    processes.kill_all(lambda: stragglers(session, machine))
