"""Whether the disk has room for the checkpoints to come, and when it would be full."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from leviathan_train.checkpoints.store import Checkpoint
from leviathan_train.config import requirements as needs
from leviathan_train.config.load import Config, normalise
from leviathan_train.run.folder import Run
from leviathan_train.system import units

KEPT_BY_DEFAULT = 4
"""Axolotl's `save_total_limit` where the config has none."""
_MOST = 100_000
"""Saves that are looked ahead."""
_TELLING = 10
"""Steps from which on a session tells how long evaluations and saves take among them."""


@dataclass(frozen=True)
class Forecast:
    """What the saves of a training will need. Sizes in bytes.

    Attributes:
        size: of one checkpoint.
        is_seen: whether the run has such a checkpoint; else its size is estimated.
        needed: what they will take at most beyond what is taken now.
        full_after: the first save, counted from 1, for which there is no room; None if all fit.
        full_at: the step of that save, if it is known.
        seconds: from now to then, at the speed of the last session.
    """

    free: int
    size: int
    is_seen: bool
    needed: int
    full_after: int | None = None
    full_at: int | None = None
    seconds: float | None = None

    @property
    def is_refused(self) -> bool:
        """Whether not even one more checkpoint fits.

        An estimate counts 32-bit weights and the optimizer's state; half of it is written in
        any case.
        """
        return self.free < (self.size if self.is_seen else self.size // 2)

    def told(self) -> str:
        """The forecast in one line."""
        source = "as seen in this run" if self.is_seen else "estimated"
        each = f"{units.size(self.size)} ({source})"
        free = f"{units.size(self.free)} free"
        if self.full_after is None:
            more = units.size(self.needed)
            return f"{free}; the coming checkpoints of {each} need up to {more} more."
        if self.full_after == 1:
            return f"{free}; the next checkpoint needs {each}: the disk would be full."
        when = f"with the {self.full_after}. save"
        if self.full_at is not None:
            when = f"at step {self.full_at}"
        if self.seconds is not None:
            when += f", in about {units.duration(self.seconds)}"
        return (
            f"{free}; the coming checkpoints of {each} need up to {units.size(self.needed)} more:"
            f" the disk would be full {when}."
        )


def forecast(
    config: Config, run: Run, found: Sequence[Checkpoint], kept: Sequence[Checkpoint], free: int
) -> Forecast | None:
    """What the coming saves need; None while the size of a checkpoint is not known.

    Args:
        found: all checkpoints of the run; the newest intact one tells the size.
        kept: those of the branch that is trained on, from which retention deletes.
        free: bytes free on the run's disk.
    """
    intact = [item for item in found if item.intact]
    size = intact[-1].bytes if intact else needs.checkpoint_bytes(config)
    if not size:
        return None
    branch = [item for item in kept if item.intact]
    begin = max((item.step for item in branch), default=0)
    speed, last = speed_of(run), last_step(config, intact)
    every = _interval(config, last, speed)
    held = _held(config, branch, _saves(config, begin, every, last))
    now = sum(item.bytes for item in branch)
    needed = [(step, max(size, count * size - now)) for step, count in held]
    known = Forecast(free, size, bool(intact), max(more for _, more in needed))
    for number, (step, more) in enumerate(needed, 1):
        if more > free:
            at = step if every else None
            seconds = (step - begin) / speed if at and speed else None
            return replace(known, full_after=number, full_at=at, seconds=seconds)
    return known


def _held(
    config: Config, branch: Sequence[Checkpoint], saves: Iterable[int]
) -> Iterator[tuple[int, int]]:
    """For each save its step, and how many checkpoints there are before older ones go."""
    keep = _limit(config)
    multiple = normalise(config.values.get("leviathan_keep_every"))
    evaluates = config.values.get("val_set_size") or config.values.get("test_datasets")
    best = bool(evaluates) and config.values.get("leviathan_keep_best") is not False
    window, others = deque(sorted(item.step for item in branch)), 0
    for step in saves:
        yield step, len(window) + others + 1
        window.append(step)
        while 0 < keep < len(window):
            old = window.popleft()
            if isinstance(multiple, int) and multiple > 0 and old % multiple == 0:
                others += 1
            elif best:  # it may always be the one that would go next
                others, best = others + 1, False


def _limit(config: Config) -> int:
    """How many checkpoints `save_total_limit` keeps; below 0 it is all of them."""
    limit = normalise(config.values.get("save_total_limit"))
    return limit if isinstance(limit, int) and limit else KEPT_BY_DEFAULT


def _saves(config: Config, begin: int, every: int | None, last: int | None) -> Iterable[int]:
    """The steps of the coming saves; only counted where the interval is not known.

    Where the end is not known, as many as it takes until older ones go.
    """
    every = every or 1
    first = begin - begin % every + every
    if last is None or last <= begin:
        return range(first, first + every * max(1, _limit(config) + 2), every)
    return [*range(first, last, every)[:_MOST], last]


_LENGTH = ("max_steps", "num_epochs", "micro_batch_size", "gradient_accumulation_steps")
"""Settings with which a training has another number of steps than its checkpoint knows."""


def last_step(config: Config, intact: Sequence[Checkpoint]) -> int | None:
    """The step at which the training ends, as the config or a checkpoint tells; else None."""
    steps = normalise(config.values.get("max_steps"))
    if isinstance(steps, int) and steps > 0:
        return steps
    if not intact:
        return None
    seal = intact[-1].seal
    made_by = seal.config if seal else {}
    changed = made_by and any(
        normalise(made_by.get(key)) != normalise(config.values.get(key)) for key in _LENGTH
    )
    return None if changed else intact[-1].facts.max_steps


def _interval(config: Config, last: int | None, speed: float | None) -> int | None:
    """Steps between two saves; None if they are not known."""
    values = config.values
    every, epochs = normalise(values.get("save_steps")), normalise(values.get("num_epochs") or 1)
    often = normalise(values.get("saves_per_epoch"))
    minutes = normalise(values.get("leviathan_save_minutes"))
    steps: float | None = None
    if isinstance(every, int) and every >= 1:
        steps = every
    elif last is None:
        return None
    elif isinstance(every, float) and 0 < every < 1:
        steps = last * every
    elif isinstance(epochs, int | float) and epochs > 0:
        steps = last / epochs / (often if isinstance(often, int) and often > 0 else 1)
    if steps is not None and speed and isinstance(minutes, int | float) and minutes > 0:
        steps = min(steps, minutes * 60 * speed)
    return None if steps is None else max(1, math.ceil(steps))


def speed_of(run: Run) -> float | None:
    """Steps per second of the last session that told them, with what lay between its steps."""
    for session in reversed(run.sessions()):
        begin, status = session.begin, session.status
        if status and status.steps_per_second and status.steps_per_second > 0:
            steps = status.step - begin.first_step if begin else 0
            seconds = status.updated - begin.at if begin else 0.0
            if steps >= _TELLING and seconds > 0:
                return min(status.steps_per_second, steps / seconds)
            return status.steps_per_second
    return None
