"""Training day after day: inside a window of the clock, and on after a crash."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from leviathan_train.errors import UsageError
from leviathan_train.run.records import Cause, End, Ending

END_OF_TIME = "the end of its time"
"""How a deadline is named to people."""


@dataclass(frozen=True)
class Window:
    """Hours of the day in which to train, in minutes since midnight; may pass midnight."""

    begin: int
    end: int

    @classmethod
    def parse(cls, text: str) -> Window:
        """A window such as 20:00-08:00.

        Raises:
            UsageError: it is none.
        """
        try:
            begin, end = (datetime.strptime(part.strip(), "%H:%M") for part in text.split("-"))
        except ValueError:
            raise UsageError(f"--window {text!r} is none.", "Say e.g. 20:00-08:00.") from None
        window = cls(begin.hour * 60 + begin.minute, end.hour * 60 + end.minute)
        if window.begin == window.end:
            raise UsageError(f"--window {text!r} is empty.", "Say e.g. 20:00-08:00.")
        return window

    def closes(self, now: datetime) -> datetime | None:
        """When the window that is open at `now` closes; None if it is not open."""
        for day in (-1, 0):
            midnight = now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=day)
            begin = midnight + timedelta(minutes=self.begin)
            length = (self.end - self.begin) % 1440
            if begin <= now < begin + timedelta(minutes=length):
                return begin + timedelta(minutes=length)
        return None

    def opens(self, now: datetime) -> datetime:
        """When the window opens next."""
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        begin = midnight + timedelta(minutes=self.begin)
        return begin if begin > now else begin + timedelta(days=1)


NOT_WORTH_A_RESTART = frozenset({Cause.CONFIG, Cause.UPSTREAM, Cause.PLUGIN})
"""Faults that the next start would meet again."""


def supervise(
    start: Callable[[float | None], End],
    tell: Callable[[str], None],
    *,
    until: float | None = None,
    window: Window | None = None,
    max_restarts: int = 0,
    wait: Callable[[float], End | None] = lambda until: None,
    now: Callable[[], datetime] = datetime.now,
    sleep: Callable[[float], None] = time.sleep,
) -> End:
    """Start a training as often as the window and the restarts ask for.

    Args:
        start: trains until the given time (seconds since the epoch) and tells the end.
        max_restarts: starts after a crash, at most so many without progress.
        wait: waits for the window until the given time; somebody may end it meanwhile.

    Returns:
        The end of the last session: finished, paused by somebody, or a crash too many.
    """
    restarts, reached = 0, -1
    rest = False
    last: End | None = None
    while True:
        deadline = until
        if window:
            closes = window.closes(now())
            if closes is None or rest:
                rest = False
                opens = window.opens(now())
                if until and opens.timestamp() >= until:
                    return last or End(
                        Ending.STOPPED, None, None, END_OF_TIME, time.time(), Cause.DEADLINE
                    )
                tell(f"Outside the window; waiting until {opens:%Y-%m-%d %H:%M}.")
                if ended := wait(opens.timestamp()):
                    return ended
                continue
            deadline = min(closes.timestamp(), until or closes.timestamp())
        last = end = start(deadline)
        if window and end.cause is Cause.DEADLINE and (until is None or time.time() < until - 60):
            rest = True
            continue
        if end.kind is not Ending.CRASHED or not max_restarts or end.cause in NOT_WORTH_A_RESTART:
            return end
        step = end.step or 0
        restarts = 1 if step > reached else restarts + 1
        reached = max(reached, step)
        if restarts > max_restarts:
            return end
        tell(f"Crashed: {end.why}. Restart {restarts} of {max_restarts} without progress.")
        sleep(min(2.0**restarts, 60.0))
