"""One checkpoint, as a look at it found it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from leviathan_train.checkpoints import seal as seals
from leviathan_train.checkpoints.facts import Facts
from leviathan_train.checkpoints.index import State
from leviathan_train.checkpoints.seal import SEAL, Seal
from leviathan_train.system.files import read_json


@dataclass(frozen=True)
class Checkpoint:
    """One `checkpoint-<step>/` and what is known of it.

    Attributes:
        state: whether a resume may trust it.
        reason: why no resume may trust it, naming the file; empty otherwise.
        modified: of its newest file, seconds since the epoch.
        files: size in bytes of each file by relative path.
        is_read: whether all its bytes were read; else only structure and sizes were judged.
    """

    path: Path
    step: int
    facts: Facts
    state: State
    reason: str
    bytes: int
    modified: float
    files: Mapping[str, int] = field(default_factory=dict, hash=False, repr=False)
    is_read: bool = True

    @property
    def name(self) -> str:
        return self.path.name

    @functools.cached_property
    def seal(self) -> Seal | None:
        """What its seal says, read when it is first asked for; None without a readable one."""
        if seals.leads_out(self.path, SEAL):
            return None
        return Seal.from_json(read_json(self.path / SEAL))

    @property
    def intact(self) -> bool:
        """Whether a resume may go on from it."""
        return self.state in {"intact", "unsealed"}
