"""Training by the clock: until a time, for a span, inside a window, and again after a crash."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from leviathan_train.errors import UsageError
from leviathan_train.launch.window import Window
from leviathan_train.run.records import END_OF_TIME, Cause, End, Ending

NOT_WORTH_A_RESTART = frozenset(
    {Cause.CONFIG, Cause.USAGE, Cause.UPSTREAM, Cause.PLUGIN, Cause.DISK}
)
"""Faults that the next start would meet again."""


@dataclass(frozen=True)
class TimeLimit:
    """When a training must be off the GPU, in seconds; the sooner of the two counts.

    Attributes:
        at: on the wall clock, since the epoch. It means another moment when the clock is set.
        monotonic_at: on CLOCK_MONOTONIC of this host, which nobody sets. It stands still while
            the machine sleeps, so that a span is one of training.
    """

    at: float | None = None
    monotonic_at: float | None = None

    @classmethod
    def parse(
        cls,
        until: str | None,
        for_: str | None,
        *,
        now: Callable[[], datetime] = datetime.now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> TimeLimit:
        """What `--until HH:MM` or `--for DURATION` mean.

        Raises:
            UsageError: one of them is not understood, or both are given.
        """
        if until is not None and for_ is not None:
            raise UsageError("--until and --for cannot be combined.", "Use one of them.")
        if for_ is not None:
            return cls(monotonic_at=monotonic() + _seconds(for_))
        if until is None:
            return cls()
        try:
            clock = datetime.strptime(until, "%H:%M")
        except ValueError:
            raise UsageError(
                f"--until {until!r} is not a time of day.", "Example:  --until 08:00"
            ) from None
        at = now().replace(hour=clock.hour, minute=clock.minute, second=0, microsecond=0)
        return cls(at=(at if at > now() else at + timedelta(days=1)).timestamp())

    def is_over(self, at: float, monotonic: float) -> bool:
        """Whether the time is up at a moment, told by both clocks."""
        by_wall = self.at is not None and at >= self.at
        return by_wall or (self.monotonic_at is not None and monotonic >= self.monotonic_at)

    def or_at(self, at: float) -> TimeLimit:
        """The same limit, with a time of the wall clock at which it is up at the latest."""
        return replace(self, at=at if self.at is None else min(at, self.at))


def _seconds(text: str) -> float:
    """A duration such as 8h, 1h30m or 45s in seconds.

    Raises:
        UsageError: `text` is not a duration.
    """
    pattern = "".join(rf"(?:(\d+(?:\.\d+)?){unit})?" for unit in "dhms")
    match = re.fullmatch(pattern, text.strip())
    parts = [float(part or 0) for part in match.groups()] if match else []
    total = sum(part * unit for part, unit in zip(parts, (86400, 3600, 60, 1), strict=False))
    if total <= 0:
        raise UsageError(f"--for {text!r} is not a duration.", "Examples:  8h, 90m, 1h30m or 45s")
    return total


def supervise(
    start: Callable[[TimeLimit], End],
    tell: Callable[[str], None],
    *,
    limit: TimeLimit | None = None,
    window: Window | None = None,
    max_restarts: int = 0,
    wait: Callable[[float], End | None] = lambda until: None,
    now: Callable[[], datetime] = datetime.now,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> End:
    """Start a training as often as the window and the restarts ask for.

    Args:
        start: trains within the given limit and returns how the session ended.
        limit: of all sessions together.
        max_restarts: how many starts may follow a crash without progress.
        wait: waits for the window until the given time (seconds since the epoch); somebody may
            end it meanwhile.

    Returns:
        The end of the last session: finished, paused by somebody, or a crash too many.
    """
    limit = limit or TimeLimit()
    restarts, reached = 0, -1
    rest = False
    last: End | None = None
    while True:
        session = limit
        if window:
            moment = now()
            closes = window.closes(moment)
            if closes is None or rest:
                rest = False
                opens = window.opens(moment)
                ahead = opens.timestamp() - moment.timestamp()
                if limit.is_over(opens.timestamp(), monotonic() + ahead):
                    if last:
                        return last
                    tell(f"The window opens at {opens:%Y-%m-%d %H:%M}, after {END_OF_TIME}.")
                    return End.stopped(END_OF_TIME, Cause.DEADLINE)
                tell(f"Outside the window; waiting until {opens:%Y-%m-%d %H:%M}.")
                if ended := wait(opens.timestamp()):
                    return ended
                continue
            session = limit.or_at(closes.timestamp())
        last = end = start(session)
        if window and end.cause is Cause.DEADLINE:
            rest = True  # the window has minutes left that are too short for a start
            continue
        if end.kind is not Ending.CRASHED or not max_restarts or end.cause in NOT_WORTH_A_RESTART:
            return end
        step = end.step or 0
        restarts = 1 if step > reached else restarts + 1
        reached = max(reached, step)
        if restarts > max_restarts or limit.is_over(now().timestamp(), monotonic()):
            return end
        tell(f"Crashed: {end.why}. Restart {restarts} of {max_restarts} without progress.")
        sleep(min(2.0**restarts, 60.0))
