"""What the command line and the merge's own process tell each other: a job, then events.

The job is a JSON file; the events are JSON lines on a pipe.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from leviathan_train.system.files import write_json

Proof = Literal["none", "weights", "logits"]


@dataclass(frozen=True)
class Job:
    """What is merged, and how training had loaded the base.

    Attributes:
        quantised, double_quant, quantise_experts, skip_modules: how training rounded the base.
        dtype: the number format that training loaded it in, or `auto`.
        parent: pid of the command line, which the process does not outlive.
    """

    base: str
    adapter: str
    out: str
    quantised: bool
    double_quant: bool
    quantise_experts: bool
    skip_modules: list[str] | None
    dtype: str
    trust_remote_code: bool
    prove: Proof
    parent: int

    def write(self, file: Path) -> None:
        write_json(file, asdict(self))

    @classmethod
    def read(cls, file: Path) -> Job:
        return cls(**json.loads(file.read_bytes()))


@dataclass(frozen=True)
class Progress:
    """What a merge does now: `done` of `total` shards or models."""

    phase: Literal["loading", "merging", "proving"]
    done: int
    total: int
    detail: str = ""


@dataclass(frozen=True)
class FileWritten:
    """A weight file is complete; `sha256` is of what was computed, not of what is on disk."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Merged:
    """The merge is done.

    Attributes:
        tensors: number of tensors written; `adapted` of them differ from the base by the adapter.
        largest_rounding: of an adapted tensor, by the number format that it is kept in.
        untied: tensors that the base shares with another, and the merged model does not.
        logits: what `--prove logits` found.
    """

    tensors: int
    adapted: int
    largest_rounding: float
    untied: list[str]
    logits: dict[str, Any] | None
    versions: dict[str, str]


@dataclass(frozen=True)
class Refused:
    """The merge ended with an error that the user can understand."""

    message: str
    hint: str | None


Event = Progress | FileWritten | Merged | Refused

_EVENTS: dict[str, Any] = {kind.__name__: kind for kind in (Progress, FileWritten, Merged, Refused)}


def encode(event: Event) -> str:
    """An event as one line."""
    return json.dumps([type(event).__name__, asdict(event)]) + "\n"


def decode(line: str) -> Event:
    """The event of a line by `encode`."""
    kind, values = json.loads(line)
    event: Event = _EVENTS[kind](**values)
    return event
