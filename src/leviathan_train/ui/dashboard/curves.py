"""The curves of a run over all the sessions that led to where it is."""

from __future__ import annotations

import math
from itertools import takewhile

from leviathan_train.run.folder import Run
from leviathan_train.run.metrics import MetricsReader
from leviathan_train.run.session import Session

Point = tuple[int, float]
"""A step and a value."""

DRAWN = ("loss", "eval_loss", "learning_rate")
"""The logged numbers that have a curve."""
_POINTS = 2048


class Curve:
    """A series of points that stays small: when it is full, neighbours become their mean."""

    def __init__(self, most: int = _POINTS) -> None:
        self._most = most
        self._each = 1
        self._points: list[Point] = []
        self._waiting: list[Point] = []

    def add(self, step: int, value: float) -> None:
        """Add a point; NaN and infinity, which no curve can show, are left out."""
        if not math.isfinite(value):
            return
        self._waiting.append((step, value))
        if len(self._waiting) == self._each:
            self._points.append(_mean(self._waiting))
            self._waiting = []
        if len(self._points) >= self._most:
            pairs = range(0, len(self._points), 2)
            self._points = [_mean(self._points[at : at + 2]) for at in pairs]
            self._each *= 2

    def cut(self, step: int) -> None:
        """Drop what lies beyond `step`: another session resumed from there."""
        self._points = [point for point in self._points if point[0] <= step]
        self._waiting = [point for point in self._waiting if point[0] <= step]

    def points(self) -> tuple[Point, ...]:
        return (*self._points, *([_mean(self._waiting)] if self._waiting else []))


def _mean(points: list[Point]) -> Point:
    return points[-1][0], sum(value for _, value in points) / len(points)


class Curves:
    """The curves up to the newest session, without what an earlier one trained and lost.

    What was read is not read again until a new session begins.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._session: Session | None = None

    def update(self, session: Session) -> None:
        """Read what was logged since the last call, up to `session`."""
        if session != self._session:
            self._curves = {name: Curve() for name in DRAWN}
            for earlier in takewhile(lambda one: one.id != session.id, self._run.sessions()):
                self._open(earlier)
                self._read()
            self._open(session)
        self._read()

    def points(self, name: str) -> tuple[Point, ...]:
        """The curve of one of `DRAWN`."""
        return self._curves[name].points() if self._session else ()

    def _open(self, session: Session) -> None:
        self._session, self._metrics, self._begun = session, MetricsReader(session), False

    def _read(self) -> None:
        if not self._begun:
            begin = self._session.begin if self._session else None
            if begin is None:
                return
            for curve in self._curves.values():
                curve.cut(begin.first_step or -1)
            self._begun = True
        for logged in self._metrics.new():
            for name in DRAWN:
                if name in logged.values:
                    self._curves[name].add(logged.step, logged.values[name])
