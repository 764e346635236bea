"""Which checkpoints stay and which go: a pure plan, then the deed.

The same plan serves `leviathan checkpoints cleanup` and `save_total_limit` in training.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from leviathan_train import checkpoints
from leviathan_train.checkpoints import Checkpoint
from leviathan_train.errors import UsageError
from leviathan_train.files import sync_folder
from leviathan_train.run import Run

_DOOMED = re.compile(r"\.leviathan-deleting-checkpoint-\d+(-\d+)?$")


@dataclass(frozen=True)
class Policy:
    """What to keep.

    Attributes:
        keep: the newest N intact checkpoints, at least 1.
        keep_every: besides, each whose step is a multiple of K.
        keep_best: besides, the best.
    """

    keep: int
    keep_every: int | None = None
    keep_best: bool = True

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise UsageError(
                "--keep 0 would delete the checkpoint to go on from.", "Keep at least 1."
            )
        if self.keep_every is not None and self.keep_every < 1:
            raise UsageError("--keep-every needs a number of steps of at least 1.")


@dataclass(frozen=True)
class Item:
    """One checkpoint of a plan.

    Attributes:
        keep: whether it stays.
        reasons: why it stays, or why it goes.
    """

    checkpoint: Checkpoint
    keep: bool
    reasons: tuple[str, ...]


def plan(
    found: Sequence[Checkpoint], policy: Policy, *, in_use: Iterable[int] = ()
) -> list[Item]:
    """Decide for each checkpoint whether it stays, with the reasons; changes nothing.

    Damaged ones do not count towards `policy.keep` and go.

    Args:
        in_use: steps that a live trainer reads or writes.
    """
    busy = set(in_use)
    by_step = sorted(found, key=lambda checkpoint: checkpoint.step)
    intact = [checkpoint for checkpoint in by_step if checkpoint.intact]
    newest = {checkpoint.step for checkpoint in intact[-policy.keep :]}
    best = checkpoints.best(by_step) if policy.keep_best else None
    items = []
    for checkpoint in by_step:
        reasons = []
        if checkpoint.step in busy:
            reasons.append("in use by the training")
        if checkpoint.intact:
            if checkpoint.step == intact[-1].step:
                reasons.append("latest")
            elif checkpoint.step in newest:
                reasons.append(f"one of the newest {policy.keep}")
            if best and checkpoint.step == best.step:
                reasons.append(_why_best(best))
            if policy.keep_every and checkpoint.step % policy.keep_every == 0:
                reasons.append(f"a multiple of {policy.keep_every} steps")
        if reasons:
            items.append(Item(checkpoint, True, tuple(reasons)))
        elif not checkpoint.intact:
            items.append(Item(checkpoint, False, (f"damaged: {checkpoint.reason}",)))
        else:
            items.append(Item(checkpoint, False, (f"older than the newest {policy.keep}",)))
    return items


def delete(run: Run, checkpoint: Checkpoint) -> None:
    """Delete one checkpoint so that no half of it ever bears its name.

    It is renamed first, in one step; what an interrupted deletion leaves behind is
    finished by `sweep`.

    Raises:
        OSError: the folder could not be renamed or removed.
    """
    remove_tree(checkpoint.path, run.path / f".leviathan-deleting-{checkpoint.name}")
    (run.verified / f"{checkpoint.name}.json").unlink(missing_ok=True)


def remove_tree(path: Path, doomed: Path) -> None:
    """Remove a folder by way of the name `doomed`, in the same file system."""
    number = 1
    target = doomed
    while target.exists():
        number += 1
        target = doomed.with_name(f"{doomed.name}-{number}")
    os.rename(path, target)
    sync_folder(target.parent)
    shutil.rmtree(target)


def sweep(run: Run) -> None:
    """Finish deletions that were interrupted."""
    try:
        names = [entry.name for entry in os.scandir(run.path) if entry.is_dir()]
    except OSError:
        return
    for name in names:
        if _DOOMED.match(name):
            shutil.rmtree(run.path / name, ignore_errors=True)


def _why_best(best: Checkpoint) -> str:
    loss = best.facts.eval_loss
    return "best" if loss is None else f"best (eval loss {loss:.4g})"


def in_use(run: Run) -> set[int]:
    """Steps of the checkpoints that a live training reads or writes."""
    session = run.live_session()
    if session is None:
        return set()
    status, launch = session.status, session.launch
    steps = {step for step, path in checkpoints.folders(run) if not checkpoints.is_sealed(path)}
    if isinstance(launch.get("resume_step"), int):
        steps.add(launch["resume_step"])
    if status:
        steps.add(status.step)
    return steps
