"""Starting the trainer, following it, and saying how it ended.

The trainer writes to its log file and its records by itself, so that neither a dead
command line nor a closed terminal takes the training along.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from leviathan_train.checkpoints.store import step_of
from leviathan_train.config.redact import is_secret, redact
from leviathan_train.launch import requests
from leviathan_train.launch.activity import Activity, Feed
from leviathan_train.launch.command import Plan, build_env
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
    Status,
)
from leviathan_train.run.session import Session
from leviathan_train.system.files import free_bytes
from leviathan_train.system.lines import LineReader
from leviathan_train.system.processes import Process
from leviathan_train.system.signals import WARNINGS, NotedSignals

_POLL = 0.1
_LINGER = 120.0
"""Seconds that a trainer which has recorded its end may take for its exit handlers."""


def open_session(plan: Plan, *, argv: Sequence[str] | None = None) -> Session:
    """Take the run for this process.

    Raises:
        LeviathanError: the run is training already.
    """
    offer = plan.offer
    return plan.run.open_session(
        Launch(
            config=str(plan.config.path),
            cli=True,
            argv=tuple(_shown(part) for part in argv or plan.argv),
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
        )
    )


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
    return f"{key}=[redacted]" if equals and value and is_secret(name) else str(redact(argument))


def noted_signals() -> NotedSignals:
    """Ctrl+C, SIGTERM and a scheduler's warnings, noted while a training is followed.

    SIGHUP, a closed terminal, is ignored: the training continues, and so do we.
    """
    return NotedSignals((signal.SIGINT, signal.SIGTERM, *WARNINGS), ignored=(signal.SIGHUP,))


class Training:
    """A started trainer, followed until its end.

    Args:
        on_line: called with each line meant for the screen.
        on_activity: called with what the run does, some times a second.

    Attributes:
        news: further lines for the screen, asked for some times a second.
    """

    def __init__(
        self,
        plan: Plan,
        session: Session,
        signals: NotedSignals,
        on_line: Callable[[str], None],
        on_activity: Callable[[Activity], None],
    ) -> None:
        self.plan = plan
        self.session = session
        self.log = plan.run.logs / f"training_{session.id}.log"
        self.news: Callable[[], Iterable[str]] = tuple
        self.tell = on_line
        self._on_activity = on_activity
        self._signals = signals
        self._interrupts = 0
        self._kill_at: float | None = None
        self._grace = plan.grace
        self._ended_at: float | None = None
        self._feed = Feed(plan.run)
        self._screen = LineReader(session.screen_file)
        self._registered = False

    def start(self) -> None:
        """Start the launcher in a session of its own, so that Ctrl+C reaches us alone."""
        self.plan.run.logs.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.plan.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=build_env(self.session, os.environ),
                start_new_session=True,
            )
        self.session.add_process(Process.of(self._process.pid), "launcher")

    def follow(self) -> End:
        """Follow the trainer until no process of it is left; signals become requests."""
        while True:
            ended = self._process.poll() is not None
            self._handle_signals()
            self._show()
            if not self._registered:
                self._check_registered(ended)
            if ended and not liveness.trainer_alive(self.session) and self._is_over():
                break
            self._keep_deadlines()
            time.sleep(_POLL)
        self._show()
        liveness.kill(self.session)  # data workers and other orphans, if any
        kill_orphans(self.plan.run)
        return self.session.end or self._close()

    def _is_over(self) -> bool:
        """Whether a dead launcher left no trainer that has yet to tell of itself."""
        return self._registered or not liveness.stragglers(self.session)

    def _keep_deadlines(self) -> None:
        """Kill a trainer that outlives its grace period, or its own end."""
        now = time.monotonic()
        if self._kill_at and now > self._kill_at:
            self._kill(f"it did not end within {self._grace:.0f} s", Cause.HUNG)
        if self.session.end:
            self._ended_at = self._ended_at or now
            if now > self._ended_at + _LINGER:
                liveness.kill(self.session)

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
        lost = f", losing {steps} step{'' if steps == 1 else 's'}" if steps > 0 else ""
        return f"Ctrl+C again: kill it now{lost}"

    def _kill(self, why: str, cause: Cause, kind: Ending = Ending.KILLED) -> None:
        liveness.kill(self.session)
        self._show()
        requests.close_as(kind, self.plan.run, self.session, why, cause)

    def _check_registered(self, ended: bool) -> None:
        """See that the plugin lives in the trainer; Axolotl 0.19 only logs that it does not."""
        if self.session.status_file.exists():
            self._registered = True
            return
        failed = plugin_failed_to_load(self.log)
        if not failed and (not ended or liveness.stragglers(self.session)):
            return
        if failed or (self._process.returncode == 0 and self.session.end is None):
            liveness.kill(self.session)
            why = "the plugin leviathan_train.plugin did not load in the trainer"
            self.session.close(End(Ending.CRASHED, None, None, why, time.time(), Cause.PLUGIN))
        self._registered = True

    def _show(self) -> None:
        for line in self._screen.new():
            self.tell(line)
        for line in self.news():
            self.tell(line)
        self._on_activity(self._feed.look())

    def _close(self) -> End:
        """The end of a trainer that recorded none, as far as it can be told."""
        run, session = self.plan.run, self.session
        if session.asked:
            return requests.ended_silently(run, session)
        why, cause = cause_in(self.log)
        if cause in {Cause.DIED, Cause.FAULT} and free_bytes(run.path) == 0:
            why, cause = NO_ROOM, Cause.DISK  # for the record of its end, too
        return requests.close_as(Ending.CRASHED, run, session, why, cause)
