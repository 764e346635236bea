"""All that the live screen shows of one moment: what the run does, its curves, the machine."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path

from leviathan_train.launch.activity import Activity, Feed
from leviathan_train.run import lookup
from leviathan_train.run.folder import Run
from leviathan_train.run.session import Session
from leviathan_train.system.files import free_bytes
from leviathan_train.system.gpu import Gpu, Nvml, used_by
from leviathan_train.system.lines import LineReader
from leviathan_train.ui.dashboard.curves import Curves, Point

_LINES = 16


@dataclass(frozen=True)
class Snapshot:
    """What the screen shows of one moment.

    Attributes:
        target: what to type as RUN to mean this run.
        losses: the logged losses up to now, thinned out evenly when there are many;
            `eval_losses` and `learning_rates` alike.
        lines: the last lines that the trainer told.
        gpus: those that the trainer uses, or all where that cannot be told.
    """

    activity: Activity
    target: str
    losses: tuple[Point, ...] = ()
    eval_losses: tuple[Point, ...] = ()
    learning_rates: tuple[Point, ...] = ()
    lines: tuple[str, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    disk_free_bytes: int | None = None

    @property
    def room(self) -> int | None:
        """How many more checkpoints of the size seen the disk has room for."""
        newest = self.activity.checkpoint
        if self.disk_free_bytes is None or not newest or not newest.bytes:
            return None
        return self.disk_free_bytes // newest.bytes


class Camera:
    """Takes snapshots of a run, each from what changed since the one before."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._gpus = Nvml()
        self._feed = Feed(run)
        self._curves = Curves(run)
        self._target = lookup.shortest_name(run)
        self._screen = LineReader(Path())
        self._lines: deque[str] = deque(maxlen=_LINES)

    def look(self) -> Snapshot:
        """The run as it is now."""
        activity = self._feed.look()
        if activity.session:
            self._read(activity.session)
        here = activity.training and activity.session and activity.session.is_here()
        return Snapshot(
            activity=activity,
            target=self._target,
            losses=self._curves.points("loss"),
            eval_losses=self._curves.points("eval_loss"),
            learning_rates=self._curves.points("learning_rate"),
            lines=tuple(self._lines),
            gpus=used_by(_ranks(activity.session), self._gpus()) if here else (),
            disk_free_bytes=free_bytes(self._run.path),
        )

    def _read(self, session: Session) -> None:
        self._curves.update(session)
        if self._screen.path != session.screen_file:
            self._screen = LineReader(session.screen_file)
            self._lines.clear()
        for line in self._screen.new()[-_LINES:]:
            self._lines.append("".join(char for char in line if char.isprintable()))


def _ranks(session: Session | None) -> frozenset[int]:
    named = session.processes() if session else {}
    return frozenset(named[role].pid for role in named if role.startswith("rank"))
