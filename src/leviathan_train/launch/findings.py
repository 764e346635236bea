"""What was found before a start: each with what it means for the run, and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from leviathan_train.errors import DONE, USAGE, LeviathanError


class Level(StrEnum):
    """What a finding means for the run: it is stopped, its result may change, or all is well."""

    ERROR = "error"
    WARNING = "warning"
    OK = "ok"


class Topic(StrEnum):
    """What was looked at."""

    CONFIG = "config"
    INPUTS = "inputs"
    KEYS = "keys"
    DATA = "data"
    RESUME = "resume"
    GPU = "gpu"
    MEMORY = "memory"
    DISK = "disk"
    MIRROR = "mirror"
    SCHEMA = "schema"
    ROWS = "rows"
    STEPS = "steps"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        hint: what to do about it.
        status: of an error, the exit status with which `train` would end.
        numbers: what the message tells, as data.
    """

    level: Level
    topic: Topic
    message: str
    hint: str | None = None
    status: int = USAGE
    numbers: Mapping[str, Any] | None = None


def ok(topic: Topic, message: str, numbers: Mapping[str, Any] | None = None) -> Finding:
    """A finding that all is well."""
    return Finding(Level.OK, topic, message, numbers=numbers)


def refusal(topic: Topic, error: LeviathanError) -> Finding:
    """The finding of an error that a start would end with."""
    return Finding(Level.ERROR, topic, error.message, error.hint, error.exit_code)


def exit_status(findings: Iterable[Finding]) -> int:
    """The exit status of the first error, which is the one that a start would end with."""
    return next((one.status for one in findings if one.level is Level.ERROR), DONE)


def document(path: Path, findings: Sequence[Finding]) -> dict[str, Any]:
    """The findings as `check --json` prints them."""
    return {
        "config": str(path),
        "findings": [
            {key: value for key, value in asdict(one).items() if key != "status"}
            for one in findings
        ],
        "ok": exit_status(findings) == DONE,
    }
