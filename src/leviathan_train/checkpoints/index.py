"""What was found in checkpoints before, so that files that are the same since are not read again.

One file for each checkpoint, `<run>/.leviathan/verified/checkpoint-<step>.json`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from leviathan_train.checkpoints.seal import Facts, Stat
from leviathan_train.run.folder import Run
from leviathan_train.system.files import read_json, write_json

VERSION = 1
"""Raised whenever the rules of what is intact change."""

State = Literal["intact", "unsealed", "weights", "damaged"]
"""`unsealed`: intact by structure, made without the plugin. `weights`: only its adapter weights
were kept, and these are intact."""


@dataclass(frozen=True)
class Known:
    """What was found when a checkpoint was looked at last.

    Attributes:
        is_read: every byte was read; else only structure and sizes were looked at.
        stats: what its files looked like then.
    """

    state: State
    facts: Facts
    is_read: bool
    stats: Mapping[str, Stat]

    def looks_altered(self, stats: Mapping[str, Stat]) -> bool:
        """Whether files were changed one by one since, and not all of them copied anew."""
        old = {name: found[:2] for name, found in self.stats.items()}
        same = [name for name, found in stats.items() if old.get(name) == found[:2]]
        return bool(same) and (len(same) < len(stats) or old.keys() != stats.keys())


def recall(run: Run, name: str) -> Known | None:
    """What is known of a checkpoint; None if nothing is, or nothing that can be read."""
    value: Any = read_json(_file(run, name))
    try:
        if value["index"] != VERSION:
            return None
        size, mtime, ctime, inode = range(4)
        stats: dict[str, Stat] = {
            str(file): (found[size], found[mtime], found[ctime], found[inode])
            for file, found in value["files"].items()
        }
        facts = Facts.from_json(value["facts"])
        return Known(value["state"], facts, bool(value.get("is_read", True)), stats)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        return None


def remember(run: Run, name: str, known: Known) -> None:
    """Note what was found; a read-only run is passed over."""
    record = {"index": VERSION, "state": known.state, "is_read": known.is_read}
    with contextlib.suppress(OSError):
        write_json(
            _file(run, name), record | {"facts": asdict(known.facts), "files": dict(known.stats)}
        )


def forget(run: Run, name: str) -> None:
    """Take back what was noted, if anything was."""
    with contextlib.suppress(OSError):
        _file(run, name).unlink(missing_ok=True)


def _file(run: Run, name: str) -> Path:
    return run.verified / f"{name}.json"
