"""Starting the trainer, following it, and saying how it ended.

The trainer writes to its log file and its records by itself, so that neither a dead
command line nor a closed terminal takes the training along.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from leviathan_train.checkpoints.store import step_of
from leviathan_train.config.redact import REDACTED, is_secret, redact
from leviathan_train.launch import requests
from leviathan_train.launch.activity import Feed
from leviathan_train.launch.command import Plan, build_env
from leviathan_train.launch.confirm import Dialog
from leviathan_train.launch.machines import Layout
from leviathan_train.run import liveness
from leviathan_train.run.folder import kill_orphans
from leviathan_train.run.log import cause_in, plugin_failed_to_load
from leviathan_train.run.records import (
    BEFORE_TRAINING,
    NO_ROOM,
    TERM_GRACE,
    Cause,
    End,
    Ending,
    Launch,
    Phase,
    RequestKind,
    Status,
)
from leviathan_train.run.session import Session
from leviathan_train.system.files import free_bytes
from leviathan_train.system.lines import LineReader
from leviathan_train.system.processes import Process
from leviathan_train.system.signals import WARNINGS, NotedSignals
from leviathan_train.system.units import count

_POLL = 0.1
_LINGER = 120.0
"""Seconds that a trainer which has recorded its end may take for its exit handlers."""
_LINGER_OF_MANY = 20.0
"""The same after a fault on one of several machines, where it may be the others that wait."""
_LOOK_ROUND = 5.0
"""Seconds between two looks at what the other machines do."""


def open_session(plan: Plan) -> Session:
    """Take the run for this process.

    Raises:
        LeviathanError: the run is training already.
    """
    offer = plan.offer
    return plan.run.open_session(
        Launch(
            config=str(plan.config.path),
            cli=True,
            argv=tuple(_shown(part) for part in plan.argv),
            typed=tuple(_shown(part) for part in _recordable(plan.typed.line())),
            cwd=os.getcwd(),
            resume_from=str(plan.resume_from) if plan.resume_from else None,
            resume_step=offer.step if offer.checkpoint else None,
            resume_from_config=str(offer.from_config) if offer.from_config else None,
            branched=bool(set(offer.newer) - set(offer.damaged)),
            prepare_anew=plan.rebuild_rows,
            until=plan.until,
            until_monotonic=plan.until_monotonic,
            grace=plan.grace,
            machines=plan.layout.machines,
        )
    )


def launcher_of(layout: Layout) -> str:
    """The role of a machine's launcher in the session."""
    return "launcher" if layout.is_first else f"launcher{layout.machine}"


def log_of(session: Session, layout: Layout) -> Path:
    """Where a machine's trainer writes its output."""
    if layout.is_first:
        return session.log
    return session.log.with_suffix(f".machine{layout.machine}.log")


def _recordable(words: Sequence[str]) -> Iterator[str]:
    """The words of a command without `--on-end`: it may hold a credential, in any form."""
    own = words[: words.index("--")] if "--" in words else words
    skipped = {
        at + offset for at, word in enumerate(own) if word == "--on-end" for offset in (0, 1)
    }
    return (word for at, word in enumerate(words) if at not in skipped)


def _shown(argument: str) -> str:
    """A part of the command as it may be recorded."""
    key, equals, value = argument.partition("=")
    name = key.rpartition("__")[2].lstrip("-")
    return f"{key}={REDACTED}" if equals and value and is_secret(name) else str(redact(argument))


def noted_signals() -> NotedSignals:
    """Ctrl+C, SIGTERM and a scheduler's warnings, noted while a training is followed.

    SIGHUP, a closed terminal, is ignored: the training continues, and so do we.
    """
    return NotedSignals((signal.SIGINT, signal.SIGTERM, *WARNINGS), ignored=(signal.SIGHUP,))


def stopped_by(signals: NotedSignals) -> End | None:
    """The end of what a signal stops while no trainer is there; None if none was noted."""
    if not (numbers := signals.take()):
        return None
    if signal.SIGINT in numbers:
        return End.stopped("Ctrl+C", Cause.PERSON)
    return End.stopped(signal.Signals(numbers[0]).name, Cause.SIGNAL)


class Training:
    """A started trainer, followed until its end.

    Attributes:
        news: further lines for the screen, asked for some times a second.
    """

    def __init__(self, plan: Plan, session: Session, signals: NotedSignals, dialog: Dialog) -> None:
        self.plan = plan
        self.session = session
        # This machine's number if several train together.
        self._many = plan.layout.machine if plan.layout.machines > 1 else None
        self.log = log_of(session, plan.layout)
        self.news: Callable[[], Iterable[str]] = tuple
        self.tell = dialog.tell
        self._dialog = dialog
        self._signals = signals
        self._interrupts = 0
        self._kill_at: float | None = None
        self._grace = plan.grace
        self._ended_at: float | None = None
        self._feed = Feed(plan.run)
        self._screen = LineReader(session.screen_file)
        self._registered = False
        self._looked_round_at = 0.0

    def start(self) -> None:
        """Start the launcher in a session of its own, so that Ctrl+C reaches us alone."""
        self.tell(f"Log: {self.plan.run.logs / self.log.name}")
        self.plan.run.logs.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.plan.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=build_env(self.session, os.environ, self.plan.layout.machine),
                start_new_session=True,
            )
        role = launcher_of(self.plan.layout)
        self.session.add_process(Process.of(self._process.pid), role)

    def follow(self) -> End:
        """Follow the trainer until no process of it is left; signals become requests."""
        try:
            while True:
                ended = self._process.poll() is not None
                self._handle_signals()
                self._show()
                if not self._registered:
                    self._check_registered(ended)
                if ended and not self._trainer_lives() and not self._first_goes_on():
                    break
                self._keep_deadlines()
                self._look_round()
                time.sleep(_POLL)
            self._show()
            self._end_processes()  # data workers and other orphans, if any
            if self._many is None:
                kill_orphans(self.plan.run)
            return self.session.end or self._close()
        finally:
            self._dialog.end_progress()

    def _trainer_lives(self) -> bool:
        """Whether a dead launcher left a trainer here, or one that has yet to tell of itself."""
        if self._many is None and liveness.trainer_alive(self.session):
            return True
        here = liveness.stragglers(self.session, self._many)
        ranks = (one for role, one in self.session.processes().items() if role.startswith("rank"))
        named = {rank.pid for rank in ranks if rank.alive()}
        return bool(here if not self._registered else here & named)

    def _first_goes_on(self) -> bool:
        """Whether the trainer here ended well, and the first machine has yet to say how."""
        if self.plan.layout.is_first or self._process.returncode or self.session.end:
            return False
        return liveness.alive(self.session)

    def _end_processes(self) -> None:
        liveness.kill(self.session, self._many)

    def _look_round(self) -> None:
        """Of a training on several machines: tell that this one lives, see that it goes on."""
        if self._many is None or time.monotonic() - self._looked_round_at < _LOOK_ROUND:
            return
        self._looked_round_at = time.monotonic()
        if self.plan.layout.is_first and not self.session.status_file.exists():
            with contextlib.suppress(OSError):  # no trainer tells of itself yet
                os.utime(self.session.launch_file)
        if self.session.end is None and self.plan.run.session() != self.session:
            self._kill("the first machine has started another session", Cause.DIED, Ending.CRASHED)

    def _keep_deadlines(self) -> None:
        """Kill a trainer that outlives its grace period, or its own end."""
        now = time.monotonic()
        if self._kill_at and now > self._kill_at:
            self._kill(f"it did not end within {self._grace:.0f} s", Cause.HUNG)
        if self.session.end:
            self._ended_at = self._ended_at or now
            faulty = self.session.end.kind not in {Ending.FINISHED, Ending.PAUSED}
            linger = _LINGER_OF_MANY if faulty and self._many is not None else _LINGER
            if now > self._ended_at + linger:
                self._end_processes()

    def _handle_signals(self) -> None:
        for number in self._signals.take():
            if number == signal.SIGINT:
                self._interrupts += 1
                if self._interrupts > 1:
                    self._kill("the second Ctrl+C", Cause.PERSON)
                else:
                    self._ask("Ctrl+C", self.plan.grace, Cause.PERSON)
            elif number == signal.SIGTERM:
                self._ask("SIGTERM", min(TERM_GRACE, self.plan.grace), Cause.SIGNAL)
            else:  # a warning, well ahead of a scheduler's kill
                self._ask(signal.Signals(number).name, self.plan.grace, Cause.SIGNAL)

    def _ask(self, by: str, grace: float, cause: Cause) -> None:
        liveness.ask_to_pause(self.session, by, grace, cause)
        kill_at = time.monotonic() + grace + requests.MARGIN
        if self._kill_at is None or kill_at < self._kill_at:
            self._kill_at, self._grace = kill_at, grace
        status = self.session.status
        first = status and status.step == 0 and status.phase is Phase.EVALUATING
        if status is None or first or status.phase in BEFORE_TRAINING:
            self.tell("Stopping: training has not begun.")
            if status is None:  # still importing; it could not hear us for seconds
                self._kill(by, cause, kind=Ending.STOPPED)
        else:
            again = f" ({self._second_interrupt(status)})" if cause is Cause.PERSON else ""
            self.tell(f"Saving checkpoint...{again}")

    def _second_interrupt(self, status: Status) -> str:
        """What the second Ctrl+C would do."""
        saved = step_of(status.last_checkpoint or "")
        steps = status.step - (self.plan.offer.step if saved is None else saved)
        lost = f", losing at least {count(steps, 'step')}" if steps > 0 else ""
        return f"Ctrl+C again: kill it now{lost}"

    def _kill(self, why: str, cause: Cause, kind: Ending = Ending.KILLED) -> None:
        if self._many is not None:  # before the others fail of it, and tell of that
            requests.close_as(kind, self.plan.run, self.session, why, cause)
            with contextlib.suppress(OSError):
                self.session.ask(RequestKind.KILL, why, cause=cause)
        self._end_processes()
        self._show()
        requests.close_as(kind, self.plan.run, self.session, why, cause)

    def _check_registered(self, ended: bool) -> None:
        """See that the plugin lives in the trainer; Axolotl 0.19 only logs that it does not."""
        told = (
            self.session.status_file if self._many is None else self.session.beat_file(self._many)
        )
        if told.exists():
            self._registered = True
            return
        failed = plugin_failed_to_load(self.log)
        if not failed and (not ended or liveness.stragglers(self.session, self._many)):
            return
        if failed or (self._process.returncode == 0 and self.session.end is None):
            self._end_processes()
            why = "the plugin leviathan_train.plugin did not load in the trainer"
            self.session.close(End(Ending.CRASHED, None, None, why, time.time(), Cause.PLUGIN))
        self._registered = True

    def _show(self) -> None:
        for line in self._screen.new():
            self.tell(line)
        for line in self.news():
            self.tell(line)
        self._dialog.show_progress(self._feed.look())

    def _close(self) -> End:
        """The end of a trainer that recorded none, as far as it can be told."""
        run, session = self.plan.run, self.session
        if session.asked:
            return requests.ended_silently(run, session)
        why, cause = cause_in(self.log)
        if cause in {Cause.DIED, Cause.FAULT} and free_bytes(run.path) == 0:
            why, cause = NO_ROOM, Cause.DISK  # for the record of its end, too
        return requests.close_as(Ending.CRASHED, run, session, why, cause)
