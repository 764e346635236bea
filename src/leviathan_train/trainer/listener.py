"""The part of the trainer that never sleeps: requests, deadlines, and the live status.

It runs in a thread of the trainer's process, so that it is heard while the main thread
sits in C code, and needs nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from leviathan_train.errors import LeviathanError
from leviathan_train.launch.schedule import END_OF_TIME
from leviathan_train.run.folder import (
    PAUSE_GRACE,
    TERM_GRACE,
    End,
    Request,
    Session,
    Status,
)
from leviathan_train.system import processes
from leviathan_train.system.files import write_json
from leviathan_train.system.processes import Process

_POLL = 0.2
_STATUS_EVERY = 1.0
_HEARTBEAT_EVERY = 10.0


@dataclass
class Deadline:
    """The end of this session's time on the GPU, and what leaving takes.

    Attributes:
        at: seconds since the epoch; None if there is none.
        step_seconds: longest time a step lately took.
        save_seconds: longest time a save lately took.
    """

    at: float | None = None
    step_seconds: float = 0.0
    save_seconds: float = 0.0

    def due(self, now: float) -> bool:
        """Whether the request must go out now, for a step and a save to be done in time."""
        if self.at is None:
            return False
        return now >= self.at - 1.5 * (self.step_seconds + self.save_seconds) - 2.0


class Watch:
    """Listens for requests and tells the trainer's main thread by two flags.

    Attributes:
        pause: the request to save and end, once one was heard.
        save: whether a save was asked for; the trainer clears it.
        status: what is told to other processes; the trainer replaces it.
        may_leave: whether there is no step to save yet, so that a pause ends the
            process at once instead of waiting for a step's end.
        describe: what the status says of the moment, asked for when it is written.

    Args:
        session: the session of this process.
        rank: this process's rank; rank 0 writes the status and answers requests.
        leave: called from the watching thread to end the process; must not return.
    """

    def __init__(
        self,
        session: Session,
        rank: int,
        status: Status,
        deadline: Deadline,
        leave: Callable[[End], None],
    ) -> None:
        self.session = session
        self.rank = rank
        self.status = status
        self.deadline = deadline
        self.pause: Request | None = None
        self.save = False
        self.may_leave = True
        self.describe: Callable[[], dict[str, Any]] = dict
        self.last_step: int | None = None
        self.last_checkpoint: str | None = None
        self._leave = leave
        self._parent = os.getppid()
        self._has_launcher = bool(session.launch.get("cli"))
        self._written: Status | None = None
        self._written_at = 0.0
        self._asked = 0.0
        self._lock = threading.Lock()
        self._wake, self._woken = socket.socketpair()
        self._closed = threading.Event()

    def start(self) -> None:
        """Take over the signals (main thread only) and begin to watch."""
        self._wake.setblocking(False)
        self._woken.settimeout(_POLL)
        self.take_signals()
        threading.Thread(target=self._run, name="leviathan-watch", daemon=True).start()

    def take_signals(self) -> None:
        """Make SIGINT and SIGTERM requests, and outlive a closed terminal."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)  # heard by the thread through the wakeup fd
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)

    def close(self) -> None:
        """Stop watching; requests and deadlines are no longer heard."""
        self._closed.set()
        self.write_status(force=True)

    def tell(self, **changes: Any) -> None:
        """Change what the status says; written within a second by the watching thread."""
        with self._lock:
            self.status = replace(self.status, **changes)

    def write_status(self, *, force: bool = False) -> None:
        """Write the status if it is this rank's part and something is new."""
        now = time.time()
        if self.rank != 0:
            return
        with self._lock:
            status = self.status
            if not force and now - self._written_at < _STATUS_EVERY:
                return
            status = replace(status, **self.describe())
            if not force and status == self._written and now - self._written_at < _HEARTBEAT_EVERY:
                return
            self._written, self._written_at = status, now
            with contextlib.suppress(OSError):  # a full disk must not end the training
                write_json(self.session.status_file, asdict(replace(status, updated=now)))

    def ask_pause(self, by: str, grace: float) -> None:
        """Ask for a pause as if from outside; all ranks hear it through the request's file."""
        request = Request("pause", by, time.time(), grace)
        with contextlib.suppress(OSError):
            request = self.session.ask("pause", by, grace)
        self._hear(request)

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                heard = self._woken.recv(64)
            except TimeoutError:
                heard = b""
            except OSError:
                return
            if signal.SIGTERM in heard:
                self.ask_pause("SIGTERM", TERM_GRACE)
            elif signal.SIGINT in heard:
                self.ask_pause("SIGINT", PAUSE_GRACE)
            self._look()

    def _look(self) -> None:
        now = time.time()
        if asked := self._new_request():
            self._hear(asked)
        if self._has_launcher and os.getppid() != self._parent and self.pause is None:
            self.ask_pause("the launcher's end", TERM_GRACE)
        if self.deadline.due(now) and self.pause is None:
            self.ask_pause(END_OF_TIME, PAUSE_GRACE)
        if self.pause:
            if self.may_leave:
                self._leave(End("stopped", None, None, self.pause.by, now))
            if now > self.pause.at + self.pause.grace:
                self.end_hard(f"no step ended within {self.pause.grace:.0f} s of {self.pause.by}")
        self.write_status()

    def _new_request(self) -> Request | None:
        try:
            changed = self.session.request_file.stat().st_mtime_ns
        except OSError:
            return None
        if changed == self._asked:
            return None
        self._asked = changed
        return self.session.request

    def _hear(self, request: Request) -> None:
        if request.kind == "kill":
            self.end_hard(request.by)
        elif request.kind == "save":
            if self.rank == 0:  # the other ranks learn of it at the next step's end
                self.save = True
                with contextlib.suppress(OSError):
                    self.session.request_file.unlink()
        else:
            self.pause = request

    def end_hard(self, why: str) -> None:
        """End this process and its children at once; the last sealed checkpoint remains."""
        with contextlib.suppress(OSError):
            self.session.close(
                End("killed", self.last_step, self.last_checkpoint, why, time.time())
            )
        processes.kill(processes.descendants(os.getpid()))
        processes.kill([os.getpid()])


def join(session: Session, rank: int) -> None:
    """Record this process as a rank of the session.

    Raises:
        LeviathanError: the session has ended, or another process has this rank.
    """
    other = session.processes().get(f"rank{rank}")
    if session.end is not None or (other and other.alive() and other.pid != os.getpid()):
        raise LeviathanError(f"session {session.id} is not this process's own")
    session.add_process(Process.of(), f"rank{rank}")
