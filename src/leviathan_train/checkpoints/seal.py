"""The seal of a checkpoint: `leviathan.json`, written last, names every other file.

It holds each file's size and SHA-256, and ends with a SHA-256 of itself: a byte that
changes anywhere in a sealed checkpoint is found.
"""

from __future__ import annotations

import errno
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from leviathan_train.checkpoints.facts import Facts as Facts
from leviathan_train.checkpoints.facts import facts_of as facts_of
from leviathan_train.checkpoints.facts import finite
from leviathan_train.checkpoints.folder import SEAL as SEAL
from leviathan_train.checkpoints.folder import Stat as Stat
from leviathan_train.checkpoints.folder import file_stats as file_stats
from leviathan_train.checkpoints.folder import leads_out as leads_out
from leviathan_train.checkpoints.folder import make_durable, stat_of
from leviathan_train.system.files import read_bytes, read_json, sync_folder, write_text

SEAL_VERSION = 1
WEIGHTS_VERSION = 2
"""Of a checkpoint that was stripped, see `strip`; version 0.1.0 does not resume from it."""
_FOR_RESUMES = re.compile(
    r"(optimizer|scheduler|scaler|rng_state|trainer_state|tokens_state|training_args)\b.*"
    r"|rng_state_\d+\.pth|latest|zero_to_fp32\.py"
)
_TICK = 20_000_000
"""Nanoseconds: a file's times are as fine as the kernel's clock tick, 10 ms at worst. Two
changes within one tick look like one."""


class FaultError(Exception):
    """A fault in a checkpoint, told in words that name the file."""


@dataclass(frozen=True)
class Seal:
    """The content of `leviathan.json`.

    Attributes:
        facts: step, losses, learning rate, best so far.
        time: when it was sealed, seconds since the epoch.
        seconds_trained: seconds of training that led here, over all sessions.
        world_size: number of ranks.
        versions: of leviathan-train and the libraries that made the checkpoint.
        config: the settings, secrets left out, that a resume is compared with.
        trainer: what transformers does not keep; see `trainer.writer`.
        files: relative path to size in bytes and SHA-256.
        weights_only: whether what only a resume needs was taken away; see `strip`.
    """

    facts: Facts
    time: float
    seconds_trained: float
    world_size: int
    versions: Mapping[str, str]
    config: Mapping[str, Any]
    trainer: Mapping[str, Any]
    files: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    weights_only: bool = False

    def to_json(self) -> dict[str, Any]:
        value = asdict(self)
        files = {name: {"bytes": size, "sha256": sha} for name, (size, sha) in self.files.items()}
        version = WEIGHTS_VERSION if value.pop("weights_only") else SEAL_VERSION
        return {"seal": version} | value | {"files": files}

    def to_text(self) -> str:
        """The file's text: the document, and a SHA-256 of it as its last entry."""
        return _signed(json.loads(json.dumps(self.to_json(), default=str)))

    @classmethod
    def from_json(cls, value: Any) -> Seal | None:
        """The seal a document holds, or None if it is no seal."""
        try:
            files = {
                str(name): (int(entry["bytes"]), str(entry["sha256"]))
                for name, entry in value["files"].items()
            }
            time, seconds = finite(float(value["time"])), finite(float(value["seconds_trained"]))
            if time is None or seconds is None:
                return None
            return cls(
                Facts.from_json(value["facts"]),
                time,
                seconds,
                int(value["world_size"]),
                {str(name): str(version) for name, version in value["versions"].items()},
                dict(value["config"]),
                dict(value["trainer"]),
                files,
                value.get("seal") == WEIGHTS_VERSION,
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            return None


def _signed(value: Mapping[str, Any]) -> str:
    import hashlib

    sha = hashlib.sha256(json.dumps(value, indent=2).encode()).hexdigest()
    return json.dumps({**value, "sha256": sha}, indent=2) + "\n"


def read(path: Path) -> Seal:
    """The seal of the checkpoint `path`, every byte of it proved.

    Raises:
        FaultError: there is none, or it is not as it was written.
    """
    try:
        return parse(read_bytes(path / SEAL))
    except OSError as error:
        raise FaultError(unreadable(SEAL, error)) from None


def parse(text: bytes) -> Seal:
    """The seal that a text holds, every byte of it proved.

    Raises:
        FaultError: it is not as it was written.
    """
    try:
        value = json.loads(text)
        seal = Seal.from_json(value)
    except (ValueError, RecursionError):
        seal = None
    if seal is None:
        raise FaultError(f"{SEAL} is {'not readable as a seal' if text else 'empty'}")
    if value.get("seal") not in {SEAL_VERSION, WEIGHTS_VERSION}:
        raise FaultError(f"{SEAL} is of another version of leviathan-train: {value.get('seal')}")
    if _signed({key: item for key, item in value.items() if key != "sha256"}).encode() != text:
        raise FaultError(f"{SEAL} has changed since it was written")
    return seal


def compare(
    path: Path, seal: Seal, stats: Mapping[str, Stat] | None = None, *, whole: bool = True
) -> Iterator[str]:
    """What differs between a checkpoint's files and its seal, one line each.

    Args:
        stats: `file_stats` of the checkpoint, where they are known.
        whole: read every byte; else only names and sizes are compared.
    """
    try:
        stats = file_stats(path) if stats is None else stats
    except OSError as error:
        yield unreadable(os.path.relpath(error.filename or path, path), error)
        return
    for name, (size, sha) in seal.files.items():
        if name not in stats:
            yield f"{name} is missing"
            continue
        found = stats[name][0]
        try:
            if found < 0:
                os.stat(path / name)  # names the error, where there is one
                yield f"{name} is no regular file"
            elif found != size:
                yield f"{name} has {found} bytes instead of {size}"
            elif whole and digest(path / name) != sha:
                yield f"{name} has changed (SHA-256 differs)"
        except OSError as error:
            yield unreadable(name, error)
    for name in sorted(set(stats) - set(seal.files) - {SEAL}):
        if not (seal.weights_only and only_for_resumes(name)):  # a strip that was interrupted
            yield f"{name} was added after the save"


def only_for_resumes(name: str) -> bool:
    """Whether a file serves a resume alone: optimizer, schedule, random states, shards, the log."""
    return "/" in name or _FOR_RESUMES.fullmatch(name) is not None


def sealed_outside(path: Path, stats: Mapping[str, Stat], outside: set[str]) -> Mapping[str, Stat]:
    """`file_stats` of a checkpoint with links out of it: files that its seal names are followed.

    Its owner may have moved and linked them. Their names are added to `outside`.
    """
    seal = None if SEAL in outside else Seal.from_json(read_json(path / SEAL))
    if seal is None:
        return stats
    links = tuple(f"{name}/" for name in outside)
    named = [name for name in seal.files if name.startswith(links) and ".." not in name.split("/")]
    moved = {name: stat_of(str(path / name)) for name in named}
    folders = {name for name in outside if any(file.startswith(f"{name}/") for file in moved)}
    outside.update(moved)
    return {name: of for name, of in stats.items() if name not in folders} | moved


def digest(path: Path) -> str:
    """SHA-256 of a regular file.

    Raises:
        OSError: it cannot be read, or is none: a pipe would never end.
    """
    import hashlib

    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "no regular file", str(path))
    with path.open("rb", buffering=0) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write(path: Path, seal: Seal) -> tuple[Seal, dict[str, Stat] | None]:
    """Make a checkpoint durable, then seal it.

    Every file and folder is fsynced before the seal is written under a temporary name and
    renamed. The seal's `files` are filled in here.

    Returns:
        The seal, and the `file_stats` that stand for what was read; None if a file was
        changed meanwhile.

    Raises:
        OSError: the disk refused; the checkpoint stays unsealed.
    """
    stats = file_stats(path)
    stats.pop(SEAL, None)
    for name, found in stats.items():
        if found[0] < 0:
            raise OSError(errno.EINVAL, "no regular file", str(path / name))
    make_durable(path, stats)
    sync_folder(path.parent)
    for leftover in path.glob(f".{SEAL}.*.tmp"):
        leftover.unlink(missing_ok=True)
    stats = _settle(path)
    stats.pop(SEAL, None)
    files = {name: (found[0], digest(path / name)) for name, found in sorted(stats.items())}
    seal = replace(seal, files=files)
    text = seal.to_text()
    write_text(path / SEAL, text, durable=True)
    after = _settle(path)
    same = after == stats | {SEAL: after.get(SEAL)} and (path / SEAL).read_text() == text
    return seal, after if same else None


def _settle(path: Path) -> dict[str, Stat]:
    """`file_stats`, once a change from now on would show in them."""
    stats = file_stats(path)
    if not settled(stats):
        time.sleep(_TICK / 1e9)
        stats = file_stats(path)
    return stats


def settled(stats: Mapping[str, Stat]) -> bool:
    """Whether a change that follows these fresh stats is bound to change them."""
    return max((found[2] for found in stats.values()), default=0) + _TICK < time.time_ns()


def unreadable(name: str, error: OSError) -> str:
    """A fault of a file that cannot be read, in words."""
    if error.errno == errno.ENOENT:
        return f"{name} is missing"
    return f"{name} cannot be read ({error.strerror})"
