"""Which processes belong to a session, and whether they live.

A pid alone says little, since pids are used again: a process is named by host, pid and
start time. Linux only, read from /proc.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SESSION_ENV = "LEVIATHAN_SESSION"
"""Environment variable that carries the session's folder to every process of a training."""

MACHINE_ENV = "LEVIATHAN_MACHINE"
"""The same for the number of the machine, of several that train together."""


def hostname() -> str:
    """The name that tells this machine from others on a shared file system."""
    return socket.gethostname()


def _start_time(pid: int) -> str | None:
    """Boot and clock ticks at which `pid` started; None if it is gone or a zombie."""
    try:
        # The kernel cuts names at 15 bytes, amid a character, too.
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    # The command's name stands in brackets and may itself hold spaces and brackets.
    fields = stat.rpartition(")")[2].split()
    state, started = fields[0], fields[19]
    return None if state in "ZX" else f"{boot[:8]}:{started}"


@dataclass(frozen=True)
class Process:
    """One process, on one host, for one boot."""

    host: str
    pid: int
    started: str

    @classmethod
    def of(cls, pid: int | None = None) -> Process:
        """This process, or the one named by `pid`, as it is now."""
        pid = os.getpid() if pid is None else pid
        return cls(hostname(), pid, _start_time(pid) or "")

    @classmethod
    def from_json(cls, value: Any) -> Process | None:
        """The process a record names, or None if the record is not one."""
        try:
            return cls(str(value["host"]), int(value["pid"]), str(value["started"]))
        except (KeyError, TypeError, ValueError):
            return None

    def alive(self) -> bool | None:
        """True or False on this host; None for a process of another host."""
        if self.host != hostname():
            return None
        return bool(self.started) and _start_time(self.pid) == self.started


def of_session(session: Path, machine: int | None = None) -> list[int]:
    """Pids of all live processes that carry `session` in their environment, but this one's.

    Finds what a record cannot: data workers, ranks, and orphans whose parent has died.

    Args:
        machine: only what was started as this one of several machines; two of them may be one
            host.
    """
    return [
        pid
        for pid, carried, of_machine in _carriers()
        if carried == str(session) and (machine is None or of_machine == str(machine))
    ]


def below_sessions(folder: Path, spare: Path | None) -> list[int]:
    """The same for every session whose folder lies in `folder`; this one's ancestors left out.

    Args:
        spare: a session whose processes are left out, too.
    """
    import psutil

    ours = {parent.pid for parent in psutil.Process().parents()}
    return [
        pid
        for pid, carried, _ in _carriers()
        if os.path.dirname(carried) == str(folder) and carried != str(spare) and pid not in ours
    ]


def _carriers() -> Iterator[tuple[int, str, str]]:
    """Pid of each live process that belongs to a session, the session's folder, the machine."""
    import psutil

    for process in psutil.process_iter():
        try:
            environ = process.environ()
            carried = environ.get(SESSION_ENV)
            if carried and process.pid != os.getpid() and _start_time(process.pid):
                yield process.pid, carried, environ.get(MACHINE_ENV, "0")
        except (psutil.Error, OSError, UnicodeDecodeError):
            continue


def descendants(pid: int) -> list[int]:
    """Pids of the live children of `pid` and of theirs."""
    import psutil

    try:
        children = psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []
    return [child.pid for child in children if _start_time(child.pid)]


def kill(pids: Iterable[int]) -> None:
    """SIGKILL each of `pids`; those already gone are passed over."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def kill_all(find: Callable[[], Collection[int]]) -> None:
    """Kill what `find` names, and see it gone, until it names nothing; five times at most.

    A process may fork between the look and the blow.
    """
    for _ in range(5):
        if not (pids := find()):
            return
        kill(pids)
        wait_gone(pids, 1.0)


def wait_gone(pids: Iterable[int], seconds: float) -> bool:
    """Wait at most `seconds` until none of `pids` lives (a zombie does not); whether so."""
    return wait_until(lambda: not any(map(_start_time, pids)), seconds, poll=0.02)


def wait_until(condition: Callable[[], bool], seconds: float, *, poll: float = 0.1) -> bool:
    """Wait at most `seconds` until `condition()`; whether it came true."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(poll)
    return True
