"""Does a resumed training go on where the log left off? The guide's checks, done by the tool."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from leviathan_train.run.records import SeamWord, Verdict

LOSS_JUMP = 0.5
"""A larger jump of the loss is wrong, says the guide; less where this run's noise is less."""
NEEDED = 3
"""Logged losses after the seam that a verdict on the loss needs."""
_TREND = 12
"""Logged losses before the seam that tell where the loss was going."""
_ENOUGH = 6
"""Logged losses before the seam that tell their noise."""
_SIGMAS = 5.0
"""Standard errors of the mean loss that a jump must exceed."""
_LEAST = 0.02
"""Share of the loss below which a jump is none, however small the noise."""
_RATE_TOLERANCE = 0.02
"""Share of the scheduled learning rate by which the first one may differ: logs are rounded."""
_NEAR = 4
"""Logged rates before the seam whose slopes tell what the schedule does near it."""
_RATE_SLOPES = 1.5
"""Times the steepest slope near the seam that the rate may change by in each step across it."""
_RATE_JUMP = 0.2
"""Share of the larger rate by which it may change besides: schedules have corners."""
_MEMORY_FACTOR = 1.10
"""Times the GPU memory of before up to which it is told to be as before."""
_LOADED = (".safetensors", ".bin", ".pt", ".pth", ".distcp")
"""How the files end that a resume loads its state from."""


@dataclass
class Seam:
    """The log before a resume, and what is logged after it.

    Attributes:
        step: the step of the checkpoint.
        before: log entries up to the checkpoint, as in `trainer_state.json`.
        optimizer_steps: updates that the loaded optimizer has made; None if it keeps no count.
        schedule_steps: the loaded schedule's own count of steps; None if it keeps none.
        expected_rate: learning rate of the first step, by the config's schedule.
        memory_before: GPU memory in bytes when the checkpoint was made.
        changed: whether settings were changed on purpose, so that a jump is no fault.
        other_rows: why the rows are not those that the checkpoint knew would come; else empty.
        edited: files of the checkpoint that its owner changed and sealed again.
    """

    step: int
    before: Sequence[Mapping[str, Any]]
    optimizer_steps: int | None = None
    schedule_steps: int | None = None
    expected_rate: float | None = None
    memory_before: int | None = None
    changed: bool = False
    other_rows: str = ""
    edited: Sequence[str] = ()
    after: list[Mapping[str, Any]] = field(default_factory=list)
    memory_after: int | None = None

    def add(self, entry: Mapping[str, Any], memory: int | None = None) -> None:
        """Take in a log entry written after the resume."""
        if "loss" in entry:
            self.after.append(dict(entry))
            self.memory_after = memory

    def verdict(self) -> Verdict:
        """Judge what is known so far."""
        if self.other_rows:
            return Verdict(SeamWord.BROKEN, self.other_rows)
        if loaded := [name for name in self.edited if name.endswith(_LOADED)]:
            cause = f"{', '.join(loaded)} changed by hand after it was saved, and sealed again"
            return Verdict(SeamWord.BROKEN, cause)
        if fault := self._state_fault() or self._rate_fault():
            return Verdict(SeamWord.BROKEN, fault)
        losses = [float(entry["loss"]) for entry in self.before if "loss" in entry]
        new = [float(entry["loss"]) for entry in self.after]
        if any(not math.isfinite(loss) for loss in new):
            return Verdict(SeamWord.BROKEN, "the loss is not a number: use an earlier checkpoint")
        if len(new) < NEEDED or len(losses) < NEEDED:
            return Verdict(SeamWord.TOO_EARLY, f"{len(new)} of {NEEDED} logged steps")
        recent = losses[-_TREND:]
        jump, limit = self._jump(recent, new[:NEEDED])
        told = f"loss {recent[-1]:.3f} -> {new[0]:.3f}"
        if abs(jump) > limit and not self.changed:
            way = "above" if jump > 0 else "below"
            cause = "the adapter is of another step, or the data or the optimizer is not as it was"
            return Verdict(
                SeamWord.BROKEN,
                f"{told}, {abs(jump):.2f} {way} where it was going (limit {limit:.2f}): {cause}",
            )
        if fault := self._rate_jump():
            return Verdict(SeamWord.BROKEN, fault)
        parts = [told]
        if self.expected_rate is not None:
            parts.append(f"learning_rate {self.expected_rate:.3e} as scheduled")
        if note := self._memory_note():
            parts.append(note)
        return Verdict(SeamWord.CONTINUOUS, ", ".join(parts))

    def _jump(self, recent: Sequence[float], new: Sequence[float]) -> tuple[float, float]:
        """How far the loss is above where it was going, and how far off it may be, in nats.

        A falling loss goes on to fall, but less and less: anywhere between the recent level
        and the recent line drawn on is where it was going. A few losses tell neither their noise
        nor a fall that has just begun: then, and below, only a jump of `LOSS_JUMP` is one.
        """
        level = sum(recent) / len(recent)
        slope, start = statistics.linear_regression(range(len(recent)), recent)
        drawn_on = start + slope * (len(recent) - 1 + (len(new) + 1) / 2)
        off = [loss - start - slope * at for at, loss in enumerate(recent)]
        # Two of the points went into the line; the last factor is for few points.
        noise = math.sqrt(sum(d * d for d in off) / max(1, len(off) - 2)) * (1 + 2 / len(off))
        limit = max(
            _SIGMAS * noise * math.sqrt(1 / len(new) + 1 / len(recent)), _LEAST * abs(level)
        )
        if noise < LOSS_JUMP / _SIGMAS:
            limit = min(limit, LOSS_JUMP)
        now = sum(new) / len(new)
        low, high = sorted((level, drawn_on))
        jump = max(0.0, now - high) or min(0.0, now - low)
        if jump < 0 or len(recent) < _ENOUGH:
            limit = max(limit, LOSS_JUMP)
        return jump, limit

    def _state_fault(self) -> str:
        if self.optimizer_steps is not None and self.optimizer_steps != self.step:
            return (
                f"the optimizer has made {self.optimizer_steps} updates instead of {self.step}:"
                " its state was lost"
            )
        if self.schedule_steps is not None and self.schedule_steps != self.step:
            return (
                f"the learning rate schedule stands at step {self.schedule_steps} instead of"
                f" {self.step}: its state was lost"
            )
        return ""

    def _rate_fault(self) -> str:
        if not self.after or self.expected_rate is None:
            return ""
        # The expectation holds for the first step only; later ones move along the schedule.
        first = self.after[0]
        rate, distance = first.get("learning_rate"), int(first.get("step", self.step)) - self.step
        if rate is None or distance != 1:
            return ""
        if abs(rate - self.expected_rate) > _RATE_TOLERANCE * max(abs(self.expected_rate), 1e-12):
            return f"learning_rate is {rate:.3e}, the schedule says {self.expected_rate:.3e}"
        return ""

    def _rate_jump(self) -> str:
        """A jump of the logged rate at the seam that the schedule makes nowhere near it."""
        before, after = (
            [(int(e["step"]), float(e["learning_rate"])) for e in log if "learning_rate" in e]
            for log in (self.before, self.after)
        )
        if self.changed or len(before) < 2 or len(after) < 2:
            return ""
        slope = max(
            abs(new - old) / max(1, at - since)
            for log in (before[-_NEAR:], after)
            for (since, old), (at, new) in pairwise(log)
        )
        (since, old), (at, new) = before[-1], after[0]
        peak = max(float(e.get("learning_rate") or 0) for e in self.before)
        restart = old < 0.1 * peak and 0.95 * peak <= new <= 1.05 * peak
        if restart or abs(new - old) <= _RATE_SLOPES * slope * (at - since) + _RATE_JUMP * max(
            old, new
        ):
            return ""
        return f"learning_rate jumped from {old:.3e} to {new:.3e}"

    def _memory_note(self) -> str:
        if not self.memory_before or not self.memory_after:
            return ""
        word = "as before" if self.memory_after <= _MEMORY_FACTOR * self.memory_before else "MORE"
        before, after = self.memory_before / (1 << 30), self.memory_after / (1 << 30)
        return f"GPU memory {before:.1f} -> {after:.1f} GiB, {word}"
