"""Reaching a training from any terminal: pause, save, stop."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass

from leviathan_train.checkpoints import store
from leviathan_train.errors import LeviathanError, UsageError
from leviathan_train.run import liveness
from leviathan_train.run.folder import Run, kill_orphans
from leviathan_train.run.lookup import in_command, is_run
from leviathan_train.run.records import (
    BEFORE_TRAINING,
    PAUSE_GRACE,
    Cause,
    End,
    Ending,
    RequestKind,
)
from leviathan_train.run.session import Session
from leviathan_train.system import processes
from leviathan_train.system.units import moment

MARGIN = 2.0
"""Seconds after the trainer's own deadline at which it is killed from here."""
_SAVE_PATIENCE = 3600.0


@dataclass(frozen=True)
class Outcome:
    """What a request came to.

    Attributes:
        end: how the session ended; None if it continues, or if it runs on another host and
            has not ended yet.
        checkpoint: the checkpoint that was saved, if it is known.
        host: where the session runs, if that is not here.
    """

    run: Run
    end: End | None = None
    checkpoint: str | None = None
    host: str | None = None


def live(run: Run) -> Session:
    """The session of a run that is training.

    Raises:
        UsageError: it is not training.
    """
    session = run.live_session()
    if session is None:
        kill_orphans(run)
        raise UsageError(
            f"{run.name} is not training (looked in {run.path.absolute()}).",
            f"See it with:  leviathan status {in_command(run)}"
            if is_run(run.path)
            else "See which runs there are with:  leviathan runs",
        )
    return session


def pause(run: Run, by: str, grace: float = PAUSE_GRACE) -> Outcome:
    """Ask a training to save and stop, and wait until it has.

    On this host a trainer that does not end within `grace` seconds is killed. For a run
    on another host the request is left and nothing is waited for.

    Raises:
        UsageError: the run is not training.
    """
    session = live(run)
    liveness.ask_to_pause(session, by, grace, Cause.PERSON)
    if not session.is_here():
        return Outcome(run, host=session.host)

    def over() -> bool:  # a command line that has just begun has no trainer yet
        known = session.end is not None
        return not liveness.trainer_alive(session) if known else not liveness.alive(session)

    if not processes.wait_until(over, grace + MARGIN):
        return _kill(run, session, f"no step ended within {grace:.0f} s of {by}", Cause.HUNG)
    kill_orphans(run)
    end = session.end or ended_silently(run, session)
    return Outcome(run, end, end.checkpoint)


def stop_now(run: Run, by: str) -> Outcome:
    """Kill a training; the last sealed checkpoint remains.

    Raises:
        UsageError: the run is not training.
    """
    session = live(run)
    if not session.is_here():
        session.ask(RequestKind.KILL, by)
        return Outcome(run, host=session.host)
    return _kill(run, session, by, Cause.PERSON)


def save(run: Run, by: str) -> Outcome:
    """Ask a training to save now and continue, and wait until the checkpoint is sealed.

    Raises:
        UsageError: the run is not training, or has not begun to.
        LeviathanError: it ended before it saved.
    """
    session = live(run)
    status = session.status
    if status is None or status.phase in BEFORE_TRAINING:
        hint = "Try again in a minute."
        if opens := session.launch.waiting_until:
            hint = f"It waits for its window, until {moment(opens, time.time())}."
        raise UsageError(f"{run.name} has not begun to train yet.", hint)
    before = time.time()
    name = session.ask(RequestKind.SAVE, by)
    if not session.is_here():
        return Outcome(run, host=session.host)

    def saved_as() -> str | None:
        if answer := session.requests.answer(name):
            return answer.checkpoint
        now = session.status
        old = session.launch.protocol < 2 and now and (now.last_checkpoint_at or 0) >= before
        return now.last_checkpoint if now and old else None

    processes.wait_until(
        lambda: saved_as() is not None or not liveness.trainer_alive(session), _SAVE_PATIENCE
    )
    end = session.end
    if (checkpoint := saved_as()) or (end and end.kind is Ending.PAUSED and end.checkpoint):
        return Outcome(run, None, checkpoint or (end.checkpoint if end else None))
    raise LeviathanError(
        f"{run.name} ended before it saved: {end.why if end else 'its process is gone'}.",
        f"See its checkpoints:  leviathan checkpoints list {in_command(run)}",
    )


def _kill(run: Run, session: Session, why: str, cause: Cause) -> Outcome:
    with contextlib.suppress(OSError):  # a full disk
        # So that whoever follows the training knows that it was asked for.
        session.ask(RequestKind.KILL, why, cause=cause)
    liveness.kill(session)
    end = close_as(Ending.KILLED, run, session, why, cause)
    return Outcome(run, end, end.checkpoint)


def ended_silently(run: Run, session: Session) -> End:
    """Record the end of a trainer that is gone and could not record it itself.

    A pause whose checkpoint was sealed after it was asked for is a pause: the disk may have
    been too full for the record.
    """
    asked = session.asked
    newest = store.latest(store.scan(run))
    if asked and asked.kind is RequestKind.KILL:
        return close_as(Ending.KILLED, run, session, asked.by, asked.cause)
    if asked and newest and newest.seal and newest.seal.time >= asked.at:
        return close_as(Ending.PAUSED, run, session, asked.by, asked.cause)
    if asked:
        why = "it ended before its checkpoint was complete"
        return close_as(Ending.KILLED, run, session, why, Cause.DIED)
    return close_as(Ending.CRASHED, run, session, "it ended without a message", Cause.DIED)


def close_as(kind: Ending, run: Run, session: Session, why: str, cause: Cause) -> End:
    """Record the end of a training that could not do so itself, if the disk has room for it."""
    newest = store.latest(store.scan(run))
    status = session.status
    step = status.step if status and status.step else None
    end = End(kind, step, newest.name if newest else None, why, time.time(), cause)
    try:
        return session.close(end)
    except OSError:
        return session.end or end
