"""What a run is doing now, or how it ended: the one source of `status`, `runs` and the screens.

The run's records are read again only when they have changed: a look costs about a
millisecond, however long the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

from leviathan_train.checkpoints import store
from leviathan_train.checkpoints.store import SEAL, Checkpoint
from leviathan_train.run import liveness
from leviathan_train.run.folder import Run
from leviathan_train.run.records import (
    BEFORE_TRAINING,
    Begin,
    End,
    Ending,
    Launch,
    Phase,
    Request,
    Status,
)
from leviathan_train.run.session import Session


class Rest(StrEnum):
    """What a run is that does not train, and of which no end was recorded."""

    ENDED = "ended"
    EMPTY = "empty"


@dataclass(frozen=True)
class Activity:
    """A run at one moment. Steps and seconds; times are seconds since the epoch.

    Attributes:
        at: when it was looked at.
        session: the newest session, None if there never was one; `sessions` counts all.
        training: whether a process of the session lives.
        over: whether nothing lives that could train: neither the session nor the command that
            started it, which may be about to start the next one.
        status: what the trainer told last; defaults if it told nothing.
        asked: the request to end that is being obeyed.
        end: how the session ended; None while it trains, or if it was not recorded.
        checkpoint: the newest intact one.
        start_seconds: how long an earlier session took from its start to its first step, if one
            is known.
    """

    at: float
    run: Run
    session: Session | None = None
    sessions: int = 0
    training: bool = False
    over: bool = True
    launch: Launch = field(default_factory=Launch)
    begin: Begin | None = None
    status: Status = field(default_factory=Status)
    asked: Request | None = None
    end: End | None = None
    checkpoint: Checkpoint | None = None
    start_seconds: float | None = None

    @property
    def phase(self) -> Phase | Ending | Rest:
        """The trainer's phase, or how the last session ended."""
        if self.training:
            return self.status.phase
        if self.end:
            return self.end.kind
        return Rest.ENDED if self.session or self.checkpoint else Rest.EMPTY

    @property
    def step(self) -> int:
        ended_at = self.end.step if self.end else None
        saved = self.checkpoint.step if self.checkpoint else 0
        return self.status.step or ended_at or self.launch.resume_step or saved

    @property
    def max_steps(self) -> int | None:
        saved = self.checkpoint.facts.max_steps if self.checkpoint else None
        return self.status.max_steps or saved

    @property
    def waited(self) -> float | None:
        """Seconds since the start of a session that has not begun to train; else None."""
        loads = self.training and self.status.phase in BEFORE_TRAINING - {Phase.WAITING}
        return max(0.0, self.at - self.launch.started) if loads and self.launch.started else None

    @property
    def share(self) -> float | None:
        """How much of the run is done, from 0 to 1."""
        return min(1.0, self.step / self.max_steps) if self.max_steps else None

    @property
    def epoch(self) -> float | None:
        return self._last("epoch")

    @property
    def loss(self) -> float | None:
        return self._last("loss")

    @property
    def eval_loss(self) -> float | None:
        return self._last("eval_loss")

    @property
    def learning_rate(self) -> float | None:
        return self._last("learning_rate")

    @property
    def grad_norm(self) -> float | None:
        return self._last("grad_norm")

    def _last(self, name: str) -> float | None:
        """As the session logged it last, or as it was at the newest checkpoint."""
        value: float | None = getattr(self.status, name)
        if value is None and self.checkpoint:
            value = getattr(self.checkpoint.facts, name)
        return value

    @property
    def steps_per_second(self) -> float | None:
        return self.status.steps_per_second if self.training else None

    @property
    def eta_seconds(self) -> float | None:
        return self.status.eta_seconds if self.training else None


class Feed:
    """A run looked at again and again.

    Args:
        now: tells the time.
    """

    def __init__(self, run: Run, *, now: Callable[[], float] = time.time) -> None:
        self.run = run
        self._now = now
        self._known: dict[Path, tuple[object, Any]] = {}

    def look(self, found: list[Checkpoint] | None = None) -> Activity:
        """The run as it is now.

        Args:
            found: its checkpoints, if they were looked at already.
        """
        at, sessions = self._now(), self.run.sessions()
        if not sessions:
            return Activity(at, self.run, checkpoint=self._newest(found))
        session = sessions[-1]
        # In this order: what the trainer wrote before its end is then never missed.
        training = liveness.alive(session)
        end: End | None = self._fresh(session.end_file, lambda: session.end)
        status: Status | None = self._fresh(session.status_file, lambda: session.status)
        launch: Launch | None = self._fresh(session.launch_file, lambda: session.launch)
        return Activity(
            at=at,
            run=self.run,
            session=session,
            sessions=len(sessions),
            training=training,
            over=not training and not liveness.command_alive(session),
            launch=launch or Launch(),
            begin=self._fresh(session.begin_file, lambda: session.begin),
            status=status or Status(host=session.host),
            asked=session.asked if training else None,
            end=None if training else end,
            checkpoint=self._newest(found),
            start_seconds=self._fresh(self.run.sessions_folder, self._last_start),
        )

    def _last_start(self) -> float | None:
        """Seconds from start to first step of the newest earlier session that trained."""
        for session in reversed(self.run.sessions()[:-1]):
            if begin := session.begin:
                return max(0.0, begin.at - session.launch.started)
        return None

    def _fresh(self, path: Path, read: Callable[[], Any]) -> Any:
        """What `read` gives for `path`, read again only if the file has changed."""
        try:
            stat = path.stat()
        except OSError:
            return None
        mark = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        known = self._known.get(path)
        if known is None or known[0] != mark:
            known = self._known[path] = (mark, read())
        return known[1]

    def _newest(self, found: list[Checkpoint] | None) -> Checkpoint | None:
        """The newest intact checkpoint; those before it are not looked at."""
        if found is not None:
            return store.latest(found)
        for _, path in reversed(store.folders(self.run)):
            # A sealed one is inspected once, even where the folder is read-only and what was
            # verified cannot be noted.
            inspect = partial(store.inspect, self.run, path, store.Read.NOTHING)
            item: Checkpoint = self._fresh(path / SEAL, inspect) or inspect()
            if item.intact:
                return item
        return None


def look(run: Run, found: list[Checkpoint] | None = None) -> Activity:
    """Look at a run once; to look again and again, keep a `Feed`."""
    return Feed(run).look(found)
