"""The command line on another machine than the first: it joins what is begun there.

The first machine's command decides from which checkpoint training goes on, and asks what there
is to ask. It opens a session in the run's folder, which all machines share; the others find it
there, start their part of it, and end as it ends.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from leviathan_train.checkpoints import store
from leviathan_train.errors import UsageError
from leviathan_train.launch import follow
from leviathan_train.launch.command import Plan
from leviathan_train.launch.follow import launcher_of
from leviathan_train.launch.machines import Layout
from leviathan_train.launch.resume import Offer
from leviathan_train.launch.schedule import TimeLimit, supervise
from leviathan_train.launch.start import Starter
from leviathan_train.launch.window import Window
from leviathan_train.run.folder import Run, busy, kill_orphans
from leviathan_train.run.records import End
from leviathan_train.run.session import Session
from leviathan_train.system.signals import NotedSignals

PATIENCE = 900.0
"""Seconds to wait for the first machine: as long as torch waits for the others there."""
_NOT_SHARED = 60.0
"""Seconds for which a file made on another machine may stay unseen: what NFS remembers."""
_POLL = 0.5
_KNOCK_EVERY = 10.0


def answers(address: tuple[str, int]) -> bool:
    """Whether a launcher listens there."""
    try:
        with socket.create_connection(address, timeout=2.0):
            return True
    except OSError:
        return False


@dataclass
class Wait:
    """The wait for the session that the first machine opens.

    Attributes:
        knock: whether the first machine's launcher answers.
        clock: the monotonic clock, in seconds.
    """

    run: Run
    layout: Layout
    knock: Callable[[tuple[str, int]], bool] = answers
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def __call__(self, signals: NotedSignals, joined: Session | None) -> Session | End:
        """The next session after `joined`, or how the waiting was ended.

        Raises:
            UsageError: there is none, or not in a folder that the machines share.
            LeviathanError: this machine takes part already.
        """
        began = knocked = self.clock()
        answered: float | None = None
        while self.clock() - began < PATIENCE:
            if stopped := follow.stopped_by(signals):
                return stopped
            session = self.run.live_session()
            if session and self._is_new(session, joined):
                if session.launch.waiting_until:
                    began = self.clock()
                elif "launcher" in session.processes():
                    return session
            elif session is None and self.layout.address and self.clock() - knocked > _KNOCK_EVERY:
                knocked = self.clock()
                if not self.knock(self.layout.address):
                    answered = None
                elif answered is not None and knocked - answered > _NOT_SHARED:
                    raise self._not_shared()
                else:
                    answered = knocked if answered is None else answered
            self.sleep(_POLL)
        raise UsageError(
            f"The first machine has not begun in {PATIENCE / 60:.0f} minutes: no session in"
            f" {self.run.path.absolute()}.",
            "Start there first, with --machine_rank 0. All machines must share the run's folder.",
        )

    def _is_new(self, session: Session, joined: Session | None) -> bool:
        """Whether a session is yet to be joined.

        Raises:
            LeviathanError: this machine's part of it lives already.
        """
        if joined and session.id == joined.id:
            return False
        launch, own = session.launch, session.processes().get(launcher_of(self.layout))
        if own and own.alive():
            raise busy(self.run, session)
        if launch.machines < 2 and not launch.waiting_until:
            raise busy(self.run, session)
        return session.end is None and own is None

    def _not_shared(self) -> UsageError:
        host, port = self.layout.address or ("", 0)
        return UsageError(
            f"The first machine trains at {host}:{port}, but not in {self.run.path.absolute()}.",
            "Put output_dir on a file system that all machines share, under one path.",
        )


class Joiner:
    """The starts of one command on a machine that is not the first."""

    def __init__(self, starter: Starter) -> None:
        self.run = starter.run
        self._starter = starter
        self._options = starter.options
        self._dialog = starter.dialog
        self._wait = Wait(self.run, self._options.layout)
        self._joined: Session | None = None

    def is_finished(self) -> bool:
        """Whether there is nothing to join, since the run is finished; told."""
        over = self._options.resume in {"ask", "auto"} and self.run.live_session() is None
        return over and self._starter.is_finished(store.scan(self.run))

    def train_all(self, limit: TimeLimit, window: Window | None, max_restarts: int) -> End:
        """Join one session, or as many as the window and the restarts ask for.

        The first machine reckons in the same way from the same ends, and opens the next one.
        """
        return supervise(
            self._train,
            self._dialog.tell,
            limit=limit,
            window=window,
            max_restarts=max_restarts,
            wait=self._wait_for_window,
        )

    def _wait_for_window(self, opens: float) -> End | None:
        """Wait as the first machine does, and end if its waiting is ended."""
        over = {session.id for session in self.run.sessions() if session.end}
        with follow.noted_signals() as signals:
            while (left := opens - time.time()) > 0:
                if stopped := follow.stopped_by(signals):
                    return stopped
                session = self.run.session()
                waiting = session and session.launch.waiting_until and session.id not in over
                if session and waiting and (end := session.end):
                    return end
                time.sleep(min(left, _POLL))
        return None

    def _train(self, limit: TimeLimit) -> End:
        """Wait for the next session, and train in it until it ends."""
        layout = self._options.layout
        with follow.noted_signals() as signals:
            self._dialog.tell(
                f"Machine {layout.machine} of 0 to {layout.machines - 1}: waiting for the first one"
                " to begin."
            )
            found = self._wait(signals, self._joined)
            if isinstance(found, End):
                return found
            self._joined = session = Session(found.path.resolve())
            kill_orphans(self.run, spare=session)
            training = follow.Training(self._plan(session), session, signals, self._dialog)
            training.start()
            return training.follow()

    def _plan(self, session: Session) -> Plan:
        """This machine's part of a session, with the checkpoint that the first one chose.

        Raises:
            UsageError: the checkpoint is not here.
        """
        launch = session.launch
        resume_from = Path(launch.resume_from) if launch.resume_from else None
        if resume_from and not resume_from.is_dir():
            raise UsageError(
                f"The first machine resumes from {resume_from}, which is not on this one.",
                "Put the run's folder on a file system that all machines share.",
            )
        return self._starter.plan_of(Offer(None), resume_from, rebuild_rows=launch.prepare_anew)
