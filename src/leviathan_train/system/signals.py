"""Signals that are noted instead of obeyed, while something must not be left half done."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

CLOSING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl+C, a polite kill, and a closed terminal."""
WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)
"""What batch schedulers send some time before they kill, if they are told to."""


class NotedSignals:
    """Notes signals inside a `with`; the handlers before it are restored at its end.

    Use it in the main thread: Python sets handlers nowhere else.

    Args:
        noted: the signals to note.
        ignored: signals to ignore meanwhile.

    Attributes:
        on_signal: called in the handler with each noted signal; what it raises is raised where
            the program is.
    """

    def __init__(
        self, noted: tuple[signal.Signals, ...] = CLOSING, ignored: tuple[signal.Signals, ...] = ()
    ) -> None:
        self._handlers: dict[int, Any] = dict.fromkeys(noted, self._note)
        self._handlers |= dict.fromkeys(ignored, signal.SIG_IGN)
        self.on_signal: Callable[[int], None] | None = None
        self._before: dict[int, Any] = {}
        self._noted: list[int] = []

    def __enter__(self) -> NotedSignals:
        for number, handler in self._handlers.items():
            self._before[number] = signal.signal(number, handler)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: object) -> None:
        self._noted.append(number)
        if self.on_signal:
            self.on_signal(number)

    def __bool__(self) -> bool:
        """Whether a signal was noted that `take` has not returned."""
        return bool(self._noted)

    def take(self) -> list[int]:
        """The signals noted since the last call, in their order."""
        noted, self._noted = self._noted, []
        return noted
