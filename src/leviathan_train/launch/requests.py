"""Reaching a training from any terminal: pause, save, stop."""

from __future__ import annotations

import time
from dataclasses import dataclass

from leviathan_train.checkpoints import store as checkpoints
from leviathan_train.errors import LeviathanError, UsageError
from leviathan_train.run.folder import PAUSE_GRACE, End, Ending, Run, Session
from leviathan_train.system import processes

_MARGIN = 5.0
"""Seconds after the trainer's own deadline at which it is ended from here."""
_SAVE_PATIENCE = 3600.0


@dataclass(frozen=True)
class Outcome:
    """What a request came to.

    Attributes:
        end: how the session ended; None if it goes on, or if it runs on another host and
            has not ended yet.
        checkpoint: the checkpoint that was saved, if it is known.
        host: where the session runs, if that is not here.
    """

    run: Run
    end: End | None
    checkpoint: str | None
    host: str | None = None


def live(run: Run) -> Session:
    """The session of a run that is training.

    Raises:
        UsageError: it is not training.
    """
    session = run.live_session()
    if session is None:
        raise UsageError(
            f"{run.name} is not training.",
            f"See it with:  leviathan checkpoints list {run.name}",
        )
    return session


def pause(run: Run, by: str, grace: float = PAUSE_GRACE) -> Outcome:
    """Ask a training to save and stop, and wait until it has.

    On this host a trainer that does not end within `grace` seconds is ended hard. For a run
    on another host the request is left and nothing is waited for.

    Raises:
        UsageError: the run is not training.
    """
    session = live(run)
    session.ask("pause", by, grace)
    if not session.is_here():
        return Outcome(run, None, None, session.host)

    def over() -> bool:  # a command line that has just begun has no trainer yet
        known = session.end is not None
        return not session.trainer_alive() if known else not session.alive()

    if not processes.wait_until(over, grace + _MARGIN):
        return _kill(run, session, f"no step ended within {grace:.0f} s of {by}")
    end = session.end or close_as("crashed", run, session, "it died without a word")
    return Outcome(run, end, end.checkpoint)


def stop_now(run: Run, by: str) -> Outcome:
    """End a training at once; the last sealed checkpoint remains.

    Raises:
        UsageError: the run is not training.
    """
    session = live(run)
    if not session.is_here():
        session.ask("kill", by, 0)
        return Outcome(run, None, None, session.host)
    return _kill(run, session, by)


def save(run: Run, by: str) -> Outcome:
    """Ask a training to save now and go on, and wait until the checkpoint is sealed.

    Raises:
        UsageError: the run is not training, or has not begun to.
        LeviathanError: it ended before it saved.
    """
    session = live(run)
    status = session.status
    if status is None or status.phase in {"waiting", "starting", "data", "model"}:
        raise UsageError(f"{run.name} has not begun to train yet.", "Try again in a while.")
    before = time.time()
    session.ask("save", by, 0)
    if not session.is_here():
        return Outcome(run, None, None, session.host)

    def saved() -> bool:
        now = session.status
        return bool(now and (now.last_checkpoint_at or 0) >= before) or not session.trainer_alive()

    processes.wait_until(saved, _SAVE_PATIENCE)
    now = session.status
    if now is None or (now.last_checkpoint_at or 0) < before:
        end = session.end
        raise LeviathanError(
            f"{run.name} ended before it saved: {end.why if end else 'its process is gone'}.",
            f"See what there is:  leviathan checkpoints list {run.name}",
        )
    return Outcome(run, None, now.last_checkpoint)


def _kill(run: Run, session: Session, why: str) -> Outcome:
    session.ask("kill", why, 0)  # so that whoever follows the training knows it was asked for
    session.kill()
    end = close_as("killed", run, session, why)
    return Outcome(run, end, end.checkpoint)


def close_as(kind: Ending, run: Run, session: Session, why: str) -> End:
    """Record the end of a training that could not do so itself."""
    newest = checkpoints.latest(checkpoints.scan(run))
    status = session.status
    step = status.step if status and status.step else None
    return session.close(End(kind, step, newest.name if newest else None, why, time.time()))
