"""Keeping of a checkpoint what a merge needs, and taking away what only a resume needs.

The new seal is what does it: from the moment it is there, in one rename, the checkpoint is one of
weights only, and what an interrupted strip leaves is removed by the next cleanup or start.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from leviathan_train.checkpoints import index
from leviathan_train.checkpoints import seal as seals
from leviathan_train.checkpoints import store as checkpoints
from leviathan_train.checkpoints.seal import SEAL, FaultError, Seal, only_for_resumes
from leviathan_train.checkpoints.store import Checkpoint
from leviathan_train.run.folder import Run
from leviathan_train.system.files import sync_file, sync_folder, write_text

_NEEDED = ("adapter_model.safetensors", "adapter_config.json")


def can_strip(checkpoint: Checkpoint) -> bool:
    """Whether there is an adapter to keep, and the checkpoint is known to be whole."""
    return checkpoint.intact and all(name in checkpoint.files for name in _NEEDED)


def kept_bytes(checkpoint: Checkpoint) -> int:
    """What a strip leaves of it, but for the seal, in bytes."""
    return sum(size for name, size in checkpoint.files.items() if _is_kept(name))


def strip(run: Run, checkpoint: Checkpoint) -> None:
    """Keep of an intact checkpoint its adapter, tokenizer and seal.

    One that is gone already is passed over.

    Raises:
        OSError: the disk refused; the checkpoint is whole still, or stripped already.
    """
    path = checkpoint.path
    if not path.is_dir():
        return  # another cleanup was faster
    old = checkpoint.seal or Seal(
        checkpoint.facts, checkpoint.modified, 0.0, checkpoints.ranks_of(checkpoint), {}, {}, {}
    )
    files = {}
    for name, size in checkpoint.files.items():
        if _is_kept(name):
            if name not in old.files:
                sync_file(path / name)
            files[name] = old.files.get(name) or (size, seals.digest(path / name))
    seal = replace(old, files=files, weights_only=True)
    write_text(path / SEAL, seal.to_text(), durable=True)
    os.utime(path / SEAL, (checkpoint.modified, checkpoint.modified))  # no later than its weights
    index.forget(run, checkpoint.name)
    _remove_rest(path)


def sweep(run: Run) -> None:
    """Finish strips that were interrupted; what refuses is left for the next time."""
    for _, path in checkpoints.folders(run):
        with contextlib.suppress(OSError, FaultError):
            if checkpoints.is_sealed(path) and seals.read(path).weights_only:
                _remove_rest(path)


def _is_kept(name: str) -> bool:
    return name != SEAL and not only_for_resumes(name)


def _remove_rest(path: Path) -> None:
    for rest in list(_rest(path)):
        shutil.rmtree(rest) if rest.is_dir() and not rest.is_symlink() else rest.unlink()
    sync_folder(path)


def _rest(path: Path) -> Iterator[Path]:
    """The files and folders of a checkpoint that only a resume needs."""
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False) or only_for_resumes(entry.name):
                yield path / entry.name
