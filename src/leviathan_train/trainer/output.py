"""What the trainer tells: lines for the log and the screen, and numbers for `metrics.jsonl`.

A disk without room loses a line, never a training.
"""

from __future__ import annotations

import contextlib
import io
import sys
import time
from collections.abc import Mapping
from typing import Any

from leviathan_train.run import metrics
from leviathan_train.run.session import Session


class Output:
    """Rank 0's voice; the other ranks are silent.

    Args:
        has_screen: whether a command line follows the session's screen file.
    """

    def __init__(self, session: Session, rank: int, *, has_screen: bool) -> None:
        self._session = session
        self._silent = rank != 0
        self._has_screen = has_screen
        self._cut = False

    def say(self, line: str) -> None:
        """Tell a line: in the log, and on the screen that follows it."""
        if self._silent:
            return
        with contextlib.suppress(OSError):
            print(line, flush=True)
        self._to_screen(line)

    def show(self, line: str) -> None:
        """Tell a line that quotes values on the screen only: people grep the log for them."""
        if not self._has_screen:
            self.say(line)
        elif not self._silent:
            self._to_screen(line)

    def log(self, step: int, logs: Mapping[str, Any]) -> None:
        """Keep logged numbers in full precision."""
        if self._silent:
            return
        # What a full disk cut off is ended first, or the next line would be lost with it.
        line = ("\n" if self._cut else "") + metrics.line(step, time.time(), logs)
        self._cut = not self._append("metrics.jsonl", line)

    def _to_screen(self, line: str) -> None:
        self._append("screen", line + "\n")

    def _append(self, name: str, text: str) -> bool:
        try:
            with (self._session.path / name).open("a", encoding="utf-8") as stream:
                stream.write(text)
        except OSError:
            return False
        return True


class _Forgiving(io.FileIO):
    """A file that takes what it has no room for, and forgets it."""

    def write(self, data: Any) -> int:
        with contextlib.suppress(OSError):
            return super().write(data) or 0
        return len(memoryview(data).cast("B"))


def forgive_full_disks() -> None:
    """Let a print or a log line of any library fail silently where the log's disk is full.

    A terminal or a test's capture is left as it is.
    """
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper) and stream.fileno() == number:
            with contextlib.suppress(OSError):
                stream.flush()
            raw: Any = _Forgiving(number, "w", closefd=False)
            # Without a buffer between, as with PYTHONUNBUFFERED: nothing is left to fail later.
            text = io.TextIOWrapper(
                raw, encoding=stream.encoding, errors="replace", write_through=True
            )
            setattr(sys, name, text)
