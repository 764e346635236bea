"""The folder that a merged model goes to: may it be written, may what is there be replaced."""

from __future__ import annotations

import shutil
from pathlib import Path

from leviathan_train.errors import LeviathanError, UsageError
from leviathan_train.merge import adapters
from leviathan_train.merge.adapters import Adapter
from leviathan_train.merge.base import weight_files
from leviathan_train.system.files import folder_bytes
from leviathan_train.system.units import size

MODELS = Path("models")
RESERVE = 64 << 20
"""Bytes that must stay free besides the model: for small files, and for others."""


def workplace(goal: Path) -> Path:
    """The hidden folder beside `goal` in which a model is written."""
    return goal.with_name(f".{goal.name}.merging")


def is_model(folder: Path) -> bool:
    """Whether `folder` holds a model."""
    return (folder / "config.json").is_file() and bool(weight_files(folder))


def check_goal(goal: Path, precious: set[Path], *, replace: bool) -> None:
    """Check that a model may be written to `goal`: only a merged model is ever replaced.

    Args:
        precious: folders that neither are in the goal nor are the goal.

    Raises:
        UsageError: it may not.
    """
    if goal.is_symlink() or (goal.exists() and not goal.is_dir()):
        raise UsageError(f"{goal} is not a folder.", "Name another:  --output DIR")
    if not goal.exists() or not any(goal.iterdir()):
        return
    here = goal.resolve()
    kept = [path.resolve() for path in (*precious, Path.cwd())]
    if not is_model(here) or any(here == path or here in path.parents for path in kept):
        raise UsageError(
            f"{goal} exists and is not a merged model: it is not replaced.",
            "Name another folder:  --output DIR",
        )
    if not replace:
        raise UsageError(
            f"{goal} exists already.", "Replace it with:  --yes    or name another:  --output DIR"
        )


def check_space(goal: Path, base: Path, adapter: Adapter) -> None:
    """Check that the model fits on the disk, what an earlier merge left taken as free.

    Raises:
        LeviathanError: it does not.
    """
    folder = goal.absolute().parent
    while not folder.exists():
        folder = folder.parent
    # What the adapter brings whole may be larger than what it replaces.
    files = [*weight_files(base), adapter.path / adapters.WEIGHTS]
    needed = sum(file.stat().st_size for file in files) + RESERVE
    free = shutil.disk_usage(folder).free + folder_bytes(workplace(goal))
    if free < needed:
        raise LeviathanError(
            f"The model needs {size(needed)}, and {folder} has {size(free)} free.",
            "Free some space there, or write it elsewhere:  --output DIR",
        )
