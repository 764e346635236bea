"""The part of the trainer that never sleeps: requests, deadlines, and the live status.

It runs in a thread of the trainer's process, so that it hears while the main thread sits in
C code, and needs nothing but the standard library. An error in it is counted and survived.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from leviathan_train.errors import LeviathanError
from leviathan_train.run.records import (
    END_OF_TIME,
    PAUSE_GRACE,
    TERM_GRACE,
    Answer,
    Cause,
    End,
    Ending,
    Request,
    RequestKind,
    Status,
)
from leviathan_train.run.session import Session
from leviathan_train.system import processes
from leviathan_train.system.files import write_json
from leviathan_train.system.processes import Process
from leviathan_train.system.signals import WARNINGS
from leviathan_train.trainer.beats import Beats
from leviathan_train.trainer.lead import Deadline

_POLL = 0.2
_STATUS_EVERY = 1.0
_HEARTBEAT_EVERY = 10.0
_TOLD_ERRORS = 5
"""So many errors of the listener are written to the log; all of them are counted."""


@dataclass
class Heard:
    """What was asked of this process so far; written by the listener, read by the callbacks.

    Attributes:
        pause: the first request to save and end.
        kill_at: when a trainer that has not obeyed is killed, on the monotonic clock; of
            several pauses the soonest counts.
        saves: names of the requests to save that wait for a checkpoint.
    """

    pause: Request | None = None
    kill_at: float | None = None
    saves: set[str] = field(default_factory=set)


class Listener:
    """Listens for requests and tells the trainer's main thread through `heard`.

    Attributes:
        status: what is told to other processes; change it by `tell`.
        may_leave: whether there is no step to save yet, so that a pause ends the
            process at once instead of waiting for a step's end.
        describe: what the status says of the moment, asked for when it is written.
        last_step, last_checkpoint: what an end that this thread records says.

    Args:
        session: the session of this process.
        rank: this process's rank; rank 0 writes the status and answers requests.
        leave: called from the listening thread to end the process; must not return.
        beats: of a training on several machines: the signs of life between them.
        clock: the monotonic clock, in seconds.
    """

    def __init__(
        self,
        session: Session,
        rank: int,
        status: Status,
        deadline: Deadline,
        leave: Callable[[End], None],
        *,
        beats: Beats | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.session = session
        self.rank = rank
        self.status = status
        self.deadline = deadline
        self.heard = Heard()
        self.may_leave = True
        self.describe: Callable[[], Mapping[str, Any]] = dict
        self.last_step: int | None = None
        self.last_checkpoint: str | None = None
        self.errors = 0
        self._leave = leave
        self._beats = beats or Beats(session, 0, 1, beats=False)
        self._clock = clock
        self._parent = os.getppid()
        self._has_launcher = session.launch.cli
        self._known: set[str] = set()
        self._written: Status | None = None
        self._written_at = -_HEARTBEAT_EVERY
        self._lock = threading.Lock()
        self._wake, self._woken = socket.socketpair()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="leviathan-listener", daemon=True)

    def start(self) -> None:
        """Take over the signals (main thread only) and begin to listen."""
        self._wake.setblocking(False)
        self._woken.settimeout(_POLL)
        self.take_signals()
        os.register_at_fork(after_in_child=_hear_nothing)
        self._thread.start()

    def take_signals(self) -> None:
        """Make SIGINT, SIGTERM and a scheduler's warnings requests; outlive a closed terminal."""
        for number in (signal.SIGINT, signal.SIGTERM, *WARNINGS):
            signal.signal(number, lambda *_: None)  # heard by the thread through the wakeup fd
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)

    def close(self) -> None:
        """Stop listening (main thread only); requests and deadlines are no longer heard."""
        self._closed.set()
        self.write_status(force=True)
        self._beats.stop()
        signal.set_wakeup_fd(-1)
        self._wake.close()
        self._woken.close()  # the thread's next look at it fails, and it ends

    def is_deaf(self) -> bool:
        """Whether the thread died, so that nothing that is asked would be heard any more."""
        return not self._thread.is_alive() and not self._closed.is_set()

    def tell(self, **changes: Any) -> None:
        """Change what the status says; written within a second by the listening thread."""
        with self._lock:
            self.status = replace(self.status, **changes)

    def write_status(self, *, force: bool = False) -> None:
        """Write the status if it is this rank's part and something is new."""
        if self.rank != 0:
            return
        now = self._clock()
        with self._lock:
            if not force and now - self._written_at < _STATUS_EVERY:
                return
            status = replace(self.status, listener_errors=self.errors, **self._described())
            due = now - self._written_at >= _HEARTBEAT_EVERY
            if not force and status == self._written and not due:
                return
            self._written, self._written_at = status, now
            with contextlib.suppress(OSError):  # a full disk must not end the training
                write_json(self.session.status_file, asdict(replace(status, updated=time.time())))

    def _described(self) -> Mapping[str, Any]:
        try:
            return self.describe()
        except Exception as error:  # the heartbeat goes on
            self._survive(error)
            return {}

    def ask_pause(self, by: str, grace: float, cause: Cause) -> None:
        """Ask for a pause as if from outside; all ranks hear it through the queue."""
        request = Request(RequestKind.PAUSE, by, time.time(), grace, cause)
        with contextlib.suppress(OSError):
            self._known.add(self.session.requests.put(request))
        self.hear("", request)

    def hear(self, name: str, request: Request) -> None:
        """Act on a request. A pause stands whatever comes after it; the sooner deadline wins."""
        if request.kind is RequestKind.KILL:
            self.kill(request.by, request.cause)
        elif request.kind is RequestKind.SAVE:
            if self.rank == 0:  # the other ranks learn of it at the next step's end
                self.heard.saves.add(name)
        else:
            kill_at = self._clock() + request.grace
            self.heard.kill_at = min(kill_at, self.heard.kill_at or kill_at)
            self.heard.pause = self.heard.pause or request

    def saved(self, checkpoint: str, names: set[str]) -> None:
        """Answer the requests to save that a sealed checkpoint fulfils."""
        self.last_checkpoint = checkpoint
        now = time.time()
        self.tell(last_checkpoint=checkpoint, last_checkpoint_at=now)
        for name in names:
            self.session.requests.resolve(name, Answer(checkpoint, now))
        self.heard.saves -= names

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                self._turn()
            except Exception as error:
                if not self._closed.is_set():
                    self._survive(error)
                    time.sleep(_POLL)

    def _survive(self, error: Exception) -> None:
        self.errors += 1
        if self.errors <= _TOLD_ERRORS:
            with contextlib.suppress(Exception):
                print(f"leviathan: listener: {error!r}", file=sys.stderr, flush=True)

    def _turn(self) -> None:
        """Wait for a signal, at most `_POLL` seconds, then look at all else."""
        try:
            signals = self._woken.recv(64)
        except TimeoutError:
            signals = b""
        if asked := _meant_by(signals):
            self.ask_pause(*asked)
        self._hear_requests()
        if self._has_launcher and os.getppid() != self._parent and self.heard.pause is None:
            self.ask_pause("the launcher's end", TERM_GRACE, Cause.SIGNAL)
        due = self.rank == 0 and self.deadline.due(time.time(), self._clock())
        if due and self.heard.pause is None:
            self.ask_pause(END_OF_TIME, PAUSE_GRACE, Cause.DEADLINE)
        self._obey()
        if why := self._beats.look():
            self.kill(why, Cause.DIED, Ending.CRASHED)
        self.write_status()

    def _hear_requests(self) -> None:
        queue = self.session.requests
        for name in queue.names():
            if name in self._known:
                continue
            request = queue.read(name)
            if request is None:
                continue  # not to be read now; looked at again
            self._known.add(name)
            if self.rank == 0:
                queue.take(name)
            self.hear(name, request)

    def _obey(self) -> None:
        pause, kill_at = self.heard.pause, self.heard.kill_at
        if pause is None or kill_at is None:
            return
        if self.may_leave:
            self._leave(End(Ending.STOPPED, None, None, pause.by, time.time(), pause.cause))
        if self._clock() > kill_at:
            self.kill(f"no step ended within {pause.grace:.0f} s of {pause.by}", Cause.HUNG)

    def kill(self, why: str, cause: Cause, kind: Ending = Ending.KILLED) -> None:
        """End this process and its children at once; the last sealed checkpoint remains."""
        end = End(kind, self.last_step, self.last_checkpoint, why, time.time(), cause)
        with contextlib.suppress(OSError):
            self.session.close(end)
        processes.kill(processes.descendants(os.getpid()))
        processes.kill([os.getpid()])


def _hear_nothing() -> None:
    """Let a forked child's signals be its own.

    It shares the wakeup socket: the SIGTERM by which a pool or a data loader ends its workers
    would be taken for one to the trainer, and pause it.
    """
    signal.set_wakeup_fd(-1)


def _meant_by(signals: bytes) -> tuple[str, float, Cause] | None:
    """The pause that these signals ask for: by whom, with what grace, for what cause."""
    if signal.SIGTERM in signals:
        return "SIGTERM", TERM_GRACE, Cause.SIGNAL
    if warning := next((number for number in WARNINGS if number in signals), None):
        return warning.name, PAUSE_GRACE, Cause.SIGNAL
    return ("SIGINT", PAUSE_GRACE, Cause.PERSON) if signal.SIGINT in signals else None


def join(session: Session, rank: int) -> None:
    """Record this process as a rank of the session.

    Raises:
        LeviathanError: the session has ended, or another process has this rank.
    """
    other = session.processes().get(f"rank{rank}")
    if session.end is not None or (other and other.alive() and other.pid != os.getpid()):
        raise LeviathanError(f"session {session.id} is not this process's own")
    session.add_process(Process.of(), f"rank{rank}")
