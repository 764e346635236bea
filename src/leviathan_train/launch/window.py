"""The hours of the day in which to train, and the wait for them to begin."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path

from leviathan_train.errors import UsageError
from leviathan_train.launch.follow import noted_signals, stopped_by
from leviathan_train.run.folder import Run
from leviathan_train.run.records import Cause, End, Launch, Phase, Status
from leviathan_train.system import processes
from leviathan_train.system.files import write_json


@dataclass(frozen=True)
class Window:
    """Hours of the day in which to train, in minutes since midnight; may pass midnight."""

    begin: int
    end: int

    @classmethod
    def parse(cls, text: str) -> Window:
        """A window such as 20:00-08:00.

        Raises:
            UsageError: `text` is not a window.
        """
        example = "Example:  --window 20:00-08:00"
        try:
            begin, end = (datetime.strptime(part.strip(), "%H:%M") for part in text.split("-"))
        except ValueError:
            raise UsageError(f"--window {text!r} is not a time window.", example) from None
        window = cls(begin.hour * 60 + begin.minute, end.hour * 60 + end.minute)
        if window.begin == window.end:
            raise UsageError(f"--window {text!r} is empty.", example)
        return window

    def closes(self, now: datetime) -> datetime | None:
        """When the window that is open at `now` closes; None if it is not open."""
        length = timedelta(minutes=(self.end - self.begin) % 1440)
        begin = self.opens(now) - timedelta(days=1)
        return begin + length if now < begin + length else None

    def opens(self, now: datetime) -> datetime:
        """When the window opens next."""
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        begin = midnight + timedelta(minutes=self.begin)
        return begin if begin > now else begin + timedelta(days=1)


def wait_for_window(run: Run, config: Path, opens: float) -> End | None:
    """Wait until a time of the clock, in reach of `pause`, `stop` and `status`.

    Args:
        config: the YAML file, for the record.
        opens: seconds since the epoch.

    Returns:
        None when it is time; otherwise how the waiting was ended.

    Raises:
        LeviathanError: the run is training already.
    """
    launch = Launch(config=str(config), cli=True, cwd=os.getcwd(), waiting_until=opens)
    session = run.open_session(launch)
    host, now = processes.hostname(), time.time()
    status = Status(str(run.path), Phase.WAITING, os.getpid(), host, updated=now)
    write_json(session.status_file, asdict(status))
    with noted_signals() as signals:
        while (left := opens - time.time()) > 0:
            if stopped := stopped_by(signals):
                session.close(stopped)
            elif asked := session.asked:
                session.close(End.stopped(asked.by, Cause.PERSON))
            if ended := session.end:
                return ended
            time.sleep(min(left, 0.5))  # a clock may be set, a machine may sleep
    shutil.rmtree(session.path)
    return None
