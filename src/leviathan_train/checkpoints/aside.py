"""Setting a branch aside: what was trained and then left, kept out of the way of what comes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from leviathan_train.checkpoints import index
from leviathan_train.checkpoints.store import Checkpoint
from leviathan_train.run.folder import Run
from leviathan_train.system.files import sync_folder


def set_aside(run: Run, found: Sequence[Checkpoint]) -> Path | None:
    """Move checkpoints (and a final adapter) of a left branch to `superseded/<time>/`.

    Returns:
        The folder they are in now; None if there was nothing to move.

    Raises:
        OSError: a folder could not be moved; what was moved stays moved.
    """
    paths = [checkpoint.path for checkpoint in found]
    if run.final.is_dir():
        paths.append(run.final)
    if not paths:
        return None
    folder = run.superseded / time.strftime("%Y%m%d_%H%M%S")
    number = 1
    while folder.exists():
        number += 1
        folder = run.superseded / f"{time.strftime('%Y%m%d_%H%M%S')}_{number}"
    folder.mkdir(parents=True)
    begun = run.saves()
    for path in paths:
        if path.name in begun:  # an interrupted save stays known as one
            Run(folder).begin_save(path.name)
        path.rename(folder / path.name)
        index.forget(run, path.name)
    sync_folder(folder)
    sync_folder(run.path)
    return folder
