"""The end of a session's time on the GPU: when a pause must be asked for, to be off it in time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Deadline:
    """The end of this session's time on the GPU, and what leaving takes. Seconds.

    Attributes:
        at: on the wall clock, since the epoch; None if there is none.
        monotonic_at: on the clock that nobody sets, for a time that was given as a span.
        step_seconds: longest time a step lately took.
        save_seconds: longest time a save lately took.
    """

    at: float | None = None
    monotonic_at: float | None = None
    step_seconds: float = 0.0
    save_seconds: float = 0.0

    def due(self, now: float, monotonic: float) -> bool:
        """Whether the request must go out now, for a step and a save to be done in time."""
        # A half more than was measured, for a step that is just longer, and two seconds
        # for the process to end.
        lead = 1.5 * (self.step_seconds + self.save_seconds) + 2.0
        by_wall = self.at is not None and now >= self.at - lead
        return by_wall or (self.monotonic_at is not None and monotonic >= self.monotonic_at - lead)
