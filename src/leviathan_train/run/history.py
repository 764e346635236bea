"""The sessions of a run: when, how far, why each ended, and whether the loss continued."""

from __future__ import annotations

from dataclasses import dataclass

from leviathan_train.run import liveness, metrics
from leviathan_train.run.folder import Run
from leviathan_train.run.records import End, Launch, Verdict
from leviathan_train.run.session import Session


@dataclass(frozen=True)
class Past:
    """How one session went. Steps, seconds, and losses.

    Attributes:
        end: None if it was not recorded.
        training: whether the session is still going on.
        first_step: the step it began at; None if training never began, as then `last_step`.
        seconds: from its first step to its end, or to its last sign of life.
    """

    session: Session
    launch: Launch
    end: End | None
    training: bool
    first_step: int | None
    last_step: int | None
    first_loss: float | None
    last_loss: float | None
    seconds: float | None
    verdict: Verdict | None

    @property
    def steps_per_second(self) -> float | None:
        """Over the whole session, saves and evaluations included."""
        if self.first_step is None or self.last_step is None or not self.seconds:
            return None
        steps = self.last_step - self.first_step
        return steps / self.seconds if steps and self.seconds > 0 else None


def history(run: Run) -> list[Past]:
    """All sessions, oldest first."""
    return [_past(session) for session in run.sessions()]


def _past(session: Session) -> Past:
    begin, end, status = session.begin, session.end, session.status
    last = end.step if end and end.step is not None else (status.step if status else None)
    heard = end.at if end else (status.updated if status else 0.0)
    losses = [
        found.values["loss"] for found in metrics.of_session(session) if "loss" in found.values
    ]
    return Past(
        session=session,
        launch=session.launch,
        end=end,
        training=end is None and liveness.alive(session),
        first_step=begin.first_step if begin else None,
        last_step=last if begin else None,
        first_loss=losses[0] if losses else None,
        last_loss=losses[-1] if losses else None,
        seconds=max(0.0, heard - begin.at) if begin else None,
        verdict=session.verdict,
    )
