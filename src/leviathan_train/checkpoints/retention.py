"""Which checkpoints stay and which go: a pure plan, then the deed.

The same plan serves `leviathan checkpoints cleanup` and `save_total_limit` in training.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from leviathan_train.checkpoints import index
from leviathan_train.checkpoints import store as checkpoints
from leviathan_train.checkpoints import strip as stripping
from leviathan_train.checkpoints.store import Checkpoint
from leviathan_train.errors import UsageError
from leviathan_train.run.folder import Run
from leviathan_train.system.files import sync_folder

STILL_WRITTEN = 300.0
"""Seconds since its last change in which a half checkpoint that plain Axolotl may be
writing is left alone; of our own trainer it is known what it writes."""

_DOOMED = re.compile(r"\.leviathan-deleting-checkpoint-\w+(-\d+)?")
_CHECKPOINT = re.compile(r"checkpoint-(\d+|final)")


@dataclass(frozen=True)
class Policy:
    """What to keep.

    Attributes:
        keep: the newest N intact checkpoints, at least 1.
        keep_every: besides, each whose step is a multiple of K.
        keep_best: besides, the best K.
        strip: whether of those that would go the adapter's weights are kept.
        keep_weights: whether those stay of which only these weights are left.
    """

    keep: int
    keep_every: int | None = None
    keep_best: int = 1
    strip: bool = False
    keep_weights: bool = True

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise UsageError(
                f"--keep {self.keep} would delete the checkpoint to go on from.",
                "Keep at least 1:  --keep 1",
            )
        if self.keep_every is not None and self.keep_every < 1:
            raise UsageError("--keep-every needs a number of steps of at least 1.")


@dataclass(frozen=True)
class Item:
    """One checkpoint of a plan.

    Attributes:
        keep: whether it stays as it is.
        reasons: why it stays, or why it goes.
        strip: whether it does not go as a whole: its adapter's weights stay.
    """

    checkpoint: Checkpoint
    keep: bool
    reasons: tuple[str, ...]
    strip: bool = False

    @property
    def freed(self) -> int:
        """Bytes that carrying it out gives back."""
        if self.keep:
            return 0
        left = stripping.kept_bytes(self.checkpoint) if self.strip else 0
        return self.checkpoint.bytes - left


def plan(
    found: Sequence[Checkpoint], policy: Policy, *, in_use: Mapping[int, str] | None = None
) -> list[Item]:
    """Decide for each checkpoint whether it stays, with the reasons; changes nothing.

    Damaged ones, and those of which only weights are left, do not count towards `policy.keep`.

    Args:
        in_use: steps that a live training reads or writes, and what it does with them.
    """
    busy = in_use or {}
    by_step = sorted(found, key=lambda checkpoint: checkpoint.step)
    intact = [checkpoint for checkpoint in by_step if checkpoint.intact]
    newest = {checkpoint.step for checkpoint in intact[-policy.keep :]}
    best = checkpoints.ranked(by_step)[: policy.keep_best]
    items = []
    for checkpoint in by_step:
        reasons = [busy[checkpoint.step]] if checkpoint.step in busy else []
        if checkpoint.intact:
            if checkpoint.step == intact[-1].step:
                reasons.append("latest")
            elif checkpoint.step in newest:
                reasons.append(f"one of the newest {policy.keep}")
            if checkpoint in best:
                reasons.append(_why_best(checkpoint, best))
            if policy.keep_every and checkpoint.step % policy.keep_every == 0:
                reasons.append(f"a multiple of {policy.keep_every} steps")
        elif checkpoint.state == "weights" and policy.keep_weights:
            reasons.append("only its adapter weights are left")
        items.append(
            Item(checkpoint, True, tuple(reasons)) if reasons else _leaving(checkpoint, policy)
        )
    return items


def _leaving(checkpoint: Checkpoint, policy: Policy) -> Item:
    """The item of a checkpoint that nothing keeps."""
    if checkpoint.state == "weights":
        return Item(checkpoint, False, ("only its adapter weights are left; --strip keeps them",))
    if not checkpoint.intact:
        return Item(checkpoint, False, (f"damaged: {checkpoint.reason}",))
    why = f"older than the newest{'' if policy.keep == 1 else f' {policy.keep}'}"
    if not policy.strip:
        return Item(checkpoint, False, (why,))
    if not stripping.can_strip(checkpoint):
        return Item(checkpoint, False, (f"{why}, and it holds no adapter to keep",))
    return Item(checkpoint, False, (why,), strip=True)


def _why_best(checkpoint: Checkpoint, best: Sequence[Checkpoint]) -> str:
    word = "best" if checkpoint == best[0] else f"one of the best {len(best)}"
    facts = checkpoint.facts
    name, value = facts.metric, facts.metric_value
    if name is None or value is None:
        name, value = "eval loss", facts.eval_loss
    at = facts.eval_step
    there = "" if at in (None, checkpoint.step) else f" at step {at}, the last before it"
    return word if value is None else f"{word} ({name} {value:.4g}{there})"


def in_use(
    run: Run, found: Sequence[Checkpoint] = (), *, now: float | None = None
) -> dict[int, str]:
    """Steps of the checkpoints that a training reads or writes, and what it does with them.

    Args:
        found: the checkpoints as they were last seen.
    """
    now = time.time() if now is None else now
    session = run.live_session()
    if session is None:
        newest = found[-1] if found else None
        if newest is None or newest.intact or newest.name in run.saves():
            return {}
        if now - _last_change(newest.path) > STILL_WRITTEN:
            return {}
        return {newest.step: "written to lately, perhaps still being saved"}
    launch, status = session.launch, session.status
    used = {
        step: "being saved by the training"
        for step, path in checkpoints.folders(run)
        if not checkpoints.is_sealed(path) and _last_change(path) >= launch.started - 1
    }
    if launch.resume_step is not None:
        used[launch.resume_step] = "the training resumed from it"
    if status:
        used.setdefault(status.step, "in use by the running training")
    newest = checkpoints.latest(found)
    if newest and newest.facts.best_step:
        used.setdefault(newest.facts.best_step, "the training may load it at its end")
    return used


def _last_change(path: Path) -> float:
    """When something in a folder was written last, in seconds since the epoch."""
    latest = 0.0
    for folder, _, names in os.walk(path):
        for file in [folder, *(os.path.join(folder, name) for name in names)]:
            with contextlib.suppress(OSError):
                latest = max(latest, os.stat(file).st_mtime)
    return latest


def carry_out(
    run: Run, items: Sequence[Item], tell: Callable[[Checkpoint], None] = lambda checkpoint: None
) -> list[int]:
    """Delete or strip what a plan lets go, oldest first, and finish what was interrupted before.

    No training starts meanwhile. What a live one has begun to use since the plan was made,
    or has made whole, stays.

    Args:
        tell: called before each deletion.

    Returns:
        The steps deleted or stripped.

    Raises:
        OSError: a folder could not be renamed or removed; what was deleted stays deleted.
    """
    done: list[int] = []
    found = [item.checkpoint for item in items]
    if all(item.keep for item in items) and not leftovers(run):
        return done
    with contextlib.ExitStack() as lock:
        with contextlib.suppress(OSError):  # a full disk may have no room for the lock
            lock.enter_context(run.locked())
        sweep(run)
        for item in items:
            checkpoint = item.checkpoint
            if item.keep or checkpoint.step in in_use(run, found):
                continue
            if not checkpoint.intact and checkpoints.inspect(run, checkpoint.path).intact:
                continue
            tell(checkpoint)
            stripping.strip(run, checkpoint) if item.strip else delete(run, checkpoint)
            done.append(checkpoint.step)
    return done


def delete(run: Run, checkpoint: Checkpoint) -> None:
    """Delete one checkpoint so that no half of it ever bears its name.

    It is renamed first, in one step; what an interrupted deletion leaves behind is
    finished by `sweep`. One that is gone already is passed over.

    Raises:
        OSError: the folder could not be renamed or removed.
    """
    remove_tree(checkpoint.path, run.path / f".leviathan-deleting-{checkpoint.name}")
    index.forget(run, checkpoint.name)


def remove_tree(path: Path, doomed: Path) -> None:
    """Remove a folder by way of the name `doomed`, in the same file system."""
    number = 1
    target = doomed
    while os.path.lexists(target):
        number += 1
        target = doomed.with_name(f"{doomed.name}-{number}")
    try:
        os.rename(path, target)
    except FileNotFoundError:
        return  # another cleanup was faster
    sync_folder(target.parent)
    _remove(target)


def _remove(path: Path) -> None:
    """Remove a folder that another cleanup may be removing, too."""
    for _ in range(100):
        if not os.path.lexists(path):
            return
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(path)
    shutil.rmtree(path)


def sweep(run: Run) -> None:
    """Finish deletions and strips that were interrupted; what refuses is left for the next time."""
    stripping.sweep(run)
    for folder in leftovers(run):
        with contextlib.suppress(OSError):
            _remove(folder)


def leftovers(run: Run) -> list[Path]:
    """What interrupted deletions left behind."""
    places = [run.path, run.superseded, *_folders(run.superseded)]
    return [
        inside for place in places for inside in _folders(place) if _DOOMED.fullmatch(inside.name)
    ]


def clear_superseded(run: Run) -> None:
    """Delete the checkpoints that were set aside; anything else that lies there stays.

    One that a live training resumed from stays, too.

    Raises:
        OSError: a folder could not be renamed or removed.
    """
    sweep(run)
    session = run.live_session()
    used = Path(str(session.launch.resume_from)).parts[-2:] if session else ()
    for aside in [run.superseded, *_folders(run.superseded)]:
        for folder in _folders(aside):
            if _CHECKPOINT.fullmatch(folder.name) and folder.parts[-2:] != used:
                remove_tree(folder, aside / f".leviathan-deleting-{folder.name}")
    for aside in [*_folders(run.superseded), run.superseded]:
        if not checkpoints.folders(Run(aside)):
            shutil.rmtree(Run(aside).records, ignore_errors=True)
        with contextlib.suppress(OSError):  # what is not empty is not ours
            aside.rmdir()


def _folders(path: Path) -> list[Path]:
    """The folders in a folder, links left out; none if it cannot be read."""
    try:
        with os.scandir(path) as entries:
            return sorted(Path(e.path) for e in entries if e.is_dir(follow_symlinks=False))
    except OSError:
        return []
