"""What a run does at one moment, gathered for a screen that looks again and again.

Every file is stat'ed before it is read, and the session's lines are read on from where
the last look ended: a look costs about a millisecond, however long the run.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from leviathan_train.checkpoints import store as checkpoints
from leviathan_train.checkpoints.store import SEAL, Facts, Seal
from leviathan_train.run import liveness
from leviathan_train.run.folder import TRAINING_ROOT, Run
from leviathan_train.run.records import End, Launch, Phase, Request, Status
from leviathan_train.run.session import Session
from leviathan_train.system import processes
from leviathan_train.system.files import folder_bytes, read_json
from leviathan_train.system.gpu import Gpu, Nvml, used_by

Point = tuple[int, float]
"""A step and a value."""

_POINTS = 2048
_LINES = 16
_STEP = re.compile(r"Step (\d+): (.+)")
_VALUE = re.compile(r"(\w+)=(\S+)")


@dataclass(frozen=True)
class Snapshot:
    """A run at one moment. Steps, bytes, and seconds; times are seconds since the epoch.

    Attributes:
        at: when it was taken.
        target: what to type as RUN to mean this run.
        config: the config it was started with, `cwd` the folder it was started in.
        phase: the trainer's phase, or how the last session ended (`ended` if nobody knows,
            `empty` if there never was a session).
        training: whether a process of the session lives.
        over: whether nothing lives that could train on: neither the session nor the command
            that started it, which may be waiting to start the next one.
        asked: the request to pause that is being obeyed.
        end: how the session ended.
        session: its id; `sessions` counts all of the run so far.
        heard: when the trainer last gave a sign of life.
        until: when the session has to be off the GPU.
        first_step: the step at which the session began to train, None if it has not yet.
        losses: the logged losses up to now, those of earlier sessions that this one goes on
            from included; thinned out evenly when there are many. `eval_losses` and
            `learning_rates` alike.
        gpus: those that the trainer uses, or all where that cannot be told.
        gpu_memory_bytes: what the trainer itself has reserved.
        last_checkpoint: the newest sealed one, `checkpoint_bytes` its size.
        lines: the last lines that the trainer told.
    """

    at: float
    run: str
    path: str
    target: str
    phase: str
    training: bool
    over: bool
    config: str | None = None
    cwd: str | None = None
    asked: Request | None = None
    end: End | None = None
    session: str | None = None
    sessions: int = 0
    started: float | None = None
    first_step: int | None = None
    until: float | None = None
    pid: int | None = None
    host: str | None = None
    heard: float | None = None
    step: int = 0
    max_steps: int | None = None
    epoch: float | None = None
    loss: float | None = None
    eval_loss: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    steps_per_second: float | None = None
    eta_seconds: float | None = None
    losses: tuple[Point, ...] = ()
    eval_losses: tuple[Point, ...] = ()
    learning_rates: tuple[Point, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    gpu_memory_bytes: int | None = None
    next_save_step: int | None = None
    next_save_at: float | None = None
    last_checkpoint: str | None = None
    last_checkpoint_at: float | None = None
    checkpoint_bytes: int | None = None
    disk_free_bytes: int | None = None
    lines: tuple[str, ...] = ()

    @property
    def share(self) -> float | None:
        """How much of the run is done, from 0 to 1."""
        return min(1.0, self.step / self.max_steps) if self.max_steps else None

    @property
    def room(self) -> int | None:
        """How many more checkpoints of the size seen the disk has room for."""
        if self.disk_free_bytes is None or not self.checkpoint_bytes:
            return None
        return self.disk_free_bytes // self.checkpoint_bytes


def snapshot(run: Run) -> Snapshot:
    """Look at a run once; to look again and again, keep a `Feed`."""
    return Feed(run).look()


class Curve:
    """A series of points that stays small: when it is full, neighbours become their mean."""

    def __init__(self, most: int = _POINTS) -> None:
        self._most = most
        self._each = 1
        self._points: list[Point] = []
        self._waiting: list[Point] = []

    def add(self, step: int, value: float) -> None:
        """Add a point; NaN and infinity, which no curve can show, are passed over."""
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
        """Drop what lies beyond `step`: another session went on from there."""
        self._points = [point for point in self._points if point[0] <= step]
        self._waiting = [point for point in self._waiting if point[0] <= step]

    def points(self) -> tuple[Point, ...]:
        return (*self._points, *([_mean(self._waiting)] if self._waiting else []))


def _mean(points: list[Point]) -> Point:
    return points[-1][0], sum(value for _, value in points) / len(points)


class Lines:
    """The lines of one session's screen, each read once.

    Attributes:
        curves: by the name in the line (`loss`, `eval_loss`, ...); those of the sessions
            before, which this one's points are added to.
        last: the newest value by name.
        tail: the newest lines as they are.
    """

    def __init__(self, path: Path, curves: dict[str, Curve]) -> None:
        self.path = path
        self.curves = curves
        self.last: dict[str, float] = {}
        self.tail: deque[str] = deque(maxlen=_LINES)
        self._read = 0

    def read(self) -> None:
        """Read what was added since; half a line is left for the next time."""
        try:
            if self.path.stat().st_size <= self._read:
                return
            with self.path.open("rb") as stream:
                stream.seek(self._read)
                whole, newline, _ = stream.read().rpartition(b"\n")
        except OSError:
            return
        if newline:
            self._read += len(whole) + 1
            for line in whole.decode("utf-8", "replace").split("\n"):
                self._take(line)

    def points(self, name: str) -> tuple[Point, ...]:
        curve = self.curves.get(name)
        return curve.points() if curve else ()

    def _take(self, line: str) -> None:
        self.tail.append("".join(character for character in line if character.isprintable()))
        if not (match := _STEP.match(line)):
            return
        for name, text in _VALUE.findall(match[2]):
            try:
                value = float(text)
            except ValueError:
                continue
            self.last[name] = value
            self.curves.setdefault(name, Curve()).add(int(match[1]), value)


@dataclass(frozen=True)
class _Sealed:
    """A sealed checkpoint as the screen needs it."""

    name: str
    at: float
    bytes: int
    facts: Facts


class Feed:
    """A run looked at again and again.

    Args:
        gpus: reads the GPUs of this machine.
        now: tells the time.
    """

    def __init__(
        self,
        run: Run,
        *,
        gpus: Callable[[], tuple[Gpu, ...]] | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.run = run
        self._gpus = gpus or Nvml()
        self._now = now
        self._known: dict[Path, tuple[object, Any]] = {}
        self._lines: Lines | None = None
        self._first_step: int | None = None

    def look(self) -> Snapshot:
        """The run as it is now; reads only what changed since the last look."""
        run, now = self.run, self._now()
        sessions = run.sessions()
        session = sessions[-1] if sessions else None
        sealed = self._sealed()
        facts = sealed.facts if sealed else Facts(0)
        common: dict[str, Any] = {
            "at": now,
            "run": run.name,
            "path": str(run.path),
            "target": _target(run),
            "sessions": len(sessions),
            "last_checkpoint": sealed.name if sealed else None,
            "last_checkpoint_at": sealed.at if sealed else None,
            "checkpoint_bytes": sealed.bytes if sealed else None,
            "disk_free_bytes": _free(run.path),
        }
        if session is None:
            phase = "ended" if sealed else "empty"
            return Snapshot(
                phase=phase,
                training=False,
                over=True,
                step=facts.step,
                max_steps=facts.max_steps,
                epoch=facts.epoch,
                loss=facts.loss,
                eval_loss=facts.eval_loss,
                **common,
            )
        if self._lines is None or self._lines.path != session.screen_file:
            self._lines, self._known = Lines(session.screen_file, _curves(sessions)), {}
            self._first_step = None
        lines = self._lines
        # In this order: what the trainer wrote before its end is then never missed.
        alive = liveness.alive(session)
        end: End | None = self._fresh(session.end_file, lambda: session.end)
        status: Status = self._fresh(session.status_file, lambda: session.status) or Status(
            run.name, Phase.STARTING, 0, session.host
        )
        request: Request | None = self._fresh(session.requests.folder, lambda: session.asked)
        if self._first_step is None:
            self._first_step = _first_step(session)
            if self._first_step is not None:
                _cut(lines.curves, self._first_step)
        lines.read()
        launch: Launch = self._fresh(session.launch_file, lambda: session.launch) or Launch()
        step = status.step or (end.step if end else None) or launch.resume_step or 0
        return Snapshot(
            phase=status.phase if alive else end.kind if end else "ended",
            training=alive,
            over=not alive and not _starter_lives(session),
            config=launch.config or None,
            cwd=launch.cwd or None,
            asked=request if alive else None,
            end=None if alive else end,
            session=session.id,
            started=launch.started or None,
            first_step=self._first_step,
            until=launch.off_by(processes.hostname(), self._now(), time.monotonic()),
            pid=status.pid or None,
            host=status.host or None,
            heard=status.updated or None,
            step=step,
            max_steps=status.max_steps or facts.max_steps,
            epoch=status.epoch if status.epoch is not None else facts.epoch,
            loss=lines.last.get("loss", facts.loss),
            eval_loss=lines.last.get("eval_loss", facts.eval_loss),
            learning_rate=lines.last.get("learning_rate", facts.learning_rate),
            grad_norm=lines.last.get("grad_norm", facts.grad_norm),
            steps_per_second=status.steps_per_second if alive else None,
            eta_seconds=status.eta_seconds if alive else None,
            losses=lines.points("loss"),
            eval_losses=lines.points("eval_loss"),
            learning_rates=lines.points("learning_rate"),
            gpus=used_by(_ranks(session), self._gpus()) if alive and session.is_here() else (),
            gpu_memory_bytes=status.gpu_memory_bytes if alive else None,
            next_save_step=status.next_save_step if alive else None,
            next_save_at=status.next_save_at if alive else None,
            lines=tuple(lines.tail),
            **common,
        )

    def _fresh(self, path: Path, read: Callable[[], Any]) -> Any:
        """What `read` gives for `path`, read anew only if the file has changed."""
        try:
            stat = path.stat()
        except OSError:
            return None
        mark = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        known = self._known.get(path)
        if known is None or known[0] != mark:
            known = self._known[path] = (mark, read())
        return known[1]

    def _sealed(self) -> _Sealed | None:
        """The newest sealed checkpoint; its files are not read."""
        for _, path in reversed(checkpoints.folders(self.run)):
            found: _Sealed | None = self._fresh(path / SEAL, partial(_read_seal, path))
            if found:
                return found
        return None


def _read_seal(path: Path) -> _Sealed | None:
    seal = Seal.from_json(read_json(path / SEAL))
    return _Sealed(path.name, seal.time, folder_bytes(path), seal.facts) if seal else None


def _curves(sessions: Sequence[Session]) -> dict[str, Curve]:
    """The curves that the newest of `sessions` goes on from."""
    curves: dict[str, Curve] = {}
    for session in sessions[:-1]:
        first_step = _first_step(session)
        if first_step is not None:
            _cut(curves, first_step)
            Lines(session.screen_file, curves).read()
    return curves


def _cut(curves: dict[str, Curve], first_step: int) -> None:
    """Leave of the curves what a session that began at `first_step` goes on from."""
    for curve in curves.values():
        curve.cut(first_step or -1)


def _first_step(session: Session) -> int | None:
    begin = read_json(session.path / "begin.json")
    step = begin.get("first_step") if isinstance(begin, dict) else None
    return step if isinstance(step, int) else None


def _free(path: Path) -> int | None:
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return None


def _target(run: Run) -> str:
    """The shortest RUN that means this run from here."""
    named = TRAINING_ROOT / run.name
    try:
        if os.path.samefile(named, run.path) and not Path(run.name).exists():
            return run.name
    except OSError:
        pass
    return str(run.path)


def _ranks(session: Session) -> frozenset[int]:
    named = session.processes()
    return frozenset(named[role].pid for role in named if role.startswith("rank"))


def _starter_lives(session: Session) -> bool:
    starter = session.processes().get("cli")
    return bool(starter and starter.alive())
