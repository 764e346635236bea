"""What a figure shows of a run: its curves, with what a later resume replaced, and its marks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from leviathan_train.checkpoints import store
from leviathan_train.run import liveness, metrics
from leviathan_train.run.folder import Run
from leviathan_train.run.session import Session

Point = tuple[int, float]
"""A step and a value."""

PANELS: Mapping[str, tuple[str, ...]] = {
    "Loss": ("loss", "eval_loss"),
    "Learning rate": ("learning_rate",),
    "Gradient norm": ("grad_norm",),
}
"""The logged numbers that are drawn, by the part of the figure that they are drawn in."""
NAMES = tuple(name for names in PANELS.values() for name in names)


@dataclass
class Curve:
    """A logged number over the steps.

    Attributes:
        points: the branch that the run is on, by step.
        superseded: what was trained and then left, by a resume from an earlier step.
        not_finite: steps at which it was NaN or infinite, which nothing can draw.
        each: of how many neighbours the smallest and the largest were kept; 1 if all were.
    """

    points: list[Point] = field(default_factory=list)
    superseded: list[list[Point]] = field(default_factory=list)
    not_finite: list[int] = field(default_factory=list)
    each: int = 1

    def add(self, step: int, value: float) -> None:
        if math.isfinite(value):
            self.points.append((step, value))
        else:
            self.not_finite.append(step)

    def resume(self, step: int) -> None:
        """Set aside what lies beyond `step`; 0 stands for a start from the beginning."""
        kept = [point for point in self.points if point[0] <= (step or -1)]
        if len(kept) < len(self.points):
            self.superseded.append(self.points[len(kept) :])
            self.points = kept

    def thinned(self, most: int) -> Curve:
        """The curve in at most some `most` points of each branch, with the same extremes."""
        longest = max(map(len, (self.points, *self.superseded)))
        each = max(1, math.ceil(2 * longest / most))
        if each <= 2:  # two of two are all of them
            return self
        return Curve(
            _extremes(self.points, each),
            [_extremes(branch, each) for branch in self.superseded],
            self.not_finite,
            each,
        )


def _extremes(points: Sequence[Point], each: int) -> list[Point]:
    """The smallest and the largest of each so many neighbours, and the first and last point."""
    if not points:
        return []
    kept = {points[0], points[-1]}
    for at in range(0, len(points), each):
        part = points[at : at + each]
        kept |= {min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])}
    return sorted(kept)


@dataclass(frozen=True)
class Mark:
    """A session on the axis of steps.

    Attributes:
        last_step: None where it is not known.
        end: how it ended; `training`, or `lost` if that was not recorded.
        resumed: whether it resumed from a checkpoint.
        verdict: of its resume.
    """

    session: str
    first_step: int
    last_step: int | None
    end: str
    resumed: bool
    verdict: str | None


@dataclass(frozen=True)
class Saved:
    """A checkpoint on the axis of steps."""

    step: int
    state: str
    best: bool


@dataclass(frozen=True)
class Figure:
    """All that is drawn of one run."""

    name: str
    path: str
    curves: Mapping[str, Curve]
    sessions: Sequence[Mark]
    checkpoints: Sequence[Saved]

    @property
    def logged(self) -> int:
        """How many points the curves have, superseded ones included."""
        return sum(
            len(branch)
            for curve in self.curves.values()
            for branch in (curve.points, *curve.superseded)
        )

    @property
    def missing(self) -> str:
        """Why a figure without any point has none."""
        if any(curve.not_finite for curve in self.curves.values()):
            return "all that was logged is NaN or infinite"
        return "no step was logged yet"

    def gaps(self) -> list[str]:
        """What cannot be drawn, in a line for each curve."""
        return [
            f"{self.name}: {name} was NaN or infinite at {len(at)} logged steps, first at {at[0]}."
            for name, curve in self.curves.items()
            if (at := curve.not_finite)
        ]


def read_all(runs: Sequence[Run]) -> list[Figure]:
    """Read each run once, however often it is named; of two with one name, paths tell them apart.

    Raises:
        OSError: a run's folder is there, but cannot be read.
    """
    figures = [read(run) for run in {run.path.resolve(): run for run in runs}.values()]
    names = Counter(figure.name for figure in figures)
    return [replace(one, name=one.path) if names[one.name] > 1 else one for one in figures]


def read(run: Run) -> Figure:
    """Read the curves of a run from what its sessions logged.

    What was trained before the first of them, or without leviathan, is taken from the newest
    `trainer_state.json`.

    Raises:
        OSError: the run's folder is there, but cannot be read.
    """
    curves = {name: Curve() for name in NAMES}
    begun = [(session, begin) for session in run.sessions() if (begin := session.begin)]
    first = begun[0][1].first_step if begun else None
    if first != 0:
        _add(curves, _logged_before(run, first))
    for session, begin in begun:
        for curve in curves.values():
            curve.resume(begin.first_step)
        _add(curves, ((found.step, found.values) for found in metrics.of_session(session)))
    found = store.scan(run, store.Read.NOTHING)
    best = store.best(found)
    return Figure(
        name=run.name,
        path=str(run.path),
        curves=curves,
        sessions=[_mark(session, begin.first_step) for session, begin in begun],
        checkpoints=[Saved(item.step, item.state, item == best) for item in found],
    )


def _add(curves: Mapping[str, Curve], logged: Iterable[tuple[int, Mapping[str, Any]]]) -> None:
    for step, values in logged:
        for name in curves.keys() & values.keys():
            curves[name].add(step, values[name])


def _logged_before(run: Run, step: int | None) -> Iterable[tuple[int, Mapping[str, Any]]]:
    """What the newest trainer state logged up to `step`; None for all of it."""
    states = []
    for folder in (run.path, *(path for _, path in reversed(store.folders(run)))):
        try:
            states.append(store.read_state(folder))
        except (store.FaultError, OSError):
            continue
        if folder != run.path:
            break  # it holds all that the older ones hold
    state = max(states, key=lambda state: int(state["global_step"]), default={})
    for line in state.get("log_history") or []:
        at = _number(line.get("step")) if isinstance(line, dict) else None
        if at is not None and (step is None or at <= step):
            found = {name: _number(line.get(name)) for name in NAMES}
            yield int(at), {name: value for name, value in found.items() if value is not None}


def _number(value: object) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _mark(session: Session, first_step: int) -> Mark:
    end, status, verdict = session.end, session.status, session.verdict
    last = end.step if end and end.step is not None else status.step if status else None
    lives = end is None and liveness.alive(session)
    return Mark(
        session=session.id,
        first_step=first_step,
        last_step=last,
        end=end.kind if end else "training" if lives else "lost",
        resumed=first_step > 0,
        verdict=verdict.word if verdict else None,
    )
