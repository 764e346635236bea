"""The logged numbers of a session, in full precision: `metrics.jsonl`, one object a line.

Each line holds `step`, `at` (seconds since the epoch) and what the trainer logged at that
step: `loss`, `eval_loss`, `learning_rate`, `grad_norm`, `epoch`, and whatever else is a number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from leviathan_train.run.session import Session
from leviathan_train.system.lines import LineReader

_OLD_LINE = re.compile(r"Step (\d+): (.+)")
_OLD_VALUE = re.compile(r"(\w+)=(\S+)")


@dataclass(frozen=True)
class Metrics:
    """What was logged at one step.

    Attributes:
        at: seconds since the epoch; None where it is not known.
        values: by transformers' names, e.g. `loss`.
    """

    step: int
    at: float | None
    values: Mapping[str, float]


def line(step: int, at: float, logs: Mapping[str, Any]) -> str:
    """A line of the file, with what is a number in `logs`."""
    numbers = {
        key: value
        for key, value in logs.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    return json.dumps({"step": step, "at": at} | numbers) + "\n"


class MetricsReader:
    """A session's metrics, each line read once.

    A session of version 0.1.0 has no such file: its numbers, rounded, are in the lines that
    were meant for its screen.
    """

    def __init__(self, session: Session) -> None:
        self._parse = _parsed
        path = session.metrics_file
        if not path.exists() and session.launch.protocol < 2:
            path, self._parse = session.screen_file, _parsed_of_old
        self._lines = LineReader(path)

    def new(self) -> Iterator[Metrics]:
        """What was logged since the last call; half a line is left for the next one."""
        for text in self._lines.new():
            if found := self._parse(text):
                yield found


def of_session(session: Session) -> list[Metrics]:
    """All that a session logged, oldest first."""
    return list(MetricsReader(session).new())


def _parsed(text: str) -> Metrics | None:
    try:
        value = json.loads(text)
        step, at = int(value.pop("step")), value.pop("at", None)
        numbers = {
            str(key): float(number)
            for key, number in value.items()
            if isinstance(number, int | float)  # a newer version may log what is not
        }
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None  # garbage, or what a full disk cut off
    return Metrics(step, at if isinstance(at, int | float) else None, numbers)


def _parsed_of_old(text: str) -> Metrics | None:
    if not (match := _OLD_LINE.match(text)):
        return None
    numbers = {}
    for name, value in _OLD_VALUE.findall(match[2]):
        try:
            numbers[name] = float(value)
        except ValueError:
            continue
    return Metrics(int(match[1]), None, numbers)
