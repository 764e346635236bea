"""Signs of life between the machines of a training, so that none waits for a dead one for good.

A process that dies breaks its connections, and the others fail at once. A machine that loses
its power or its network does not, and NCCL may wait for half an hour.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable

from leviathan_train.run.liveness import HEARTBEAT_LOST
from leviathan_train.run.records import Ending
from leviathan_train.run.session import Session

EVERY = 5.0
"""Seconds between two signs of life."""
_AFTER_END = 30.0
"""Seconds for which a trainer may outlive an end that another machine has recorded."""


class Beats:
    """This machine's signs of life, and a look at those of the others.

    Nothing is compared between clocks of machines: a sign of life is a change of a file's time,
    and only seconds in which somebody looked count as silence.

    Args:
        machine: this one's number.
        machines: how many there are; with one, nothing is done.
        beats: whether this process gives the signs; one of each machine does.
    """

    def __init__(
        self,
        session: Session,
        machine: int,
        machines: int,
        *,
        beats: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session = session
        self._own = session.beat_file(machine) if beats and machines > 1 else None
        self._others = [other for other in range(machines) if other != machine]
        self._clock = clock
        self._looked_at = clock() - EVERY
        self._seen: dict[int, int] = {}
        self._silent: dict[int, float] = {}
        self._ended = 0.0

    def look(self) -> str:
        """Give a sign of life and look for the others', if it is time.

        Returns:
            Why this process must end; empty if it need not.
        """
        since = self._clock() - self._looked_at
        if not self._others or since < EVERY:
            return ""
        self._looked_at = self._clock()
        passed = min(since, 2 * EVERY)  # a machine or a disk that stood still proves nothing
        if self._own:
            with contextlib.suppress(OSError):
                self._own.touch()
        for other in self._others:
            if self._silence(other, passed) > HEARTBEAT_LOST:
                return f"machine {other} gave no sign of life for {HEARTBEAT_LOST:.0f} s"
        return self._outlived(passed)

    def stop(self) -> None:
        """Take the sign of life away, so that the others do not wait for the next one."""
        if self._own:
            with contextlib.suppress(OSError):
                self._own.unlink()

    def _silence(self, other: int, passed: float) -> float:
        """Seconds since a machine's last sign of life; none before its first, or after it left."""
        try:
            changed = os.stat(self._session.beat_file(other)).st_mtime_ns
        except FileNotFoundError:
            self._seen.pop(other, None)
            return 0.0
        except OSError:
            return self._silent.get(other, 0.0)
        if self._seen.get(other) != changed:
            self._seen[other], self._silent[other] = changed, 0.0
        else:
            self._silent[other] += passed
        return self._silent[other]

    def _outlived(self, passed: float) -> str:
        end = self._session.end
        if end is None or end.kind not in {Ending.CRASHED, Ending.KILLED}:
            return ""
        self._ended += passed
        return f"the session has ended: {end.why}" if self._ended > _AFTER_END else ""
