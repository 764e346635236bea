"""Sealing again a checkpoint that its owner edited on purpose."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from leviathan_train.checkpoints import seal, structure
from leviathan_train.checkpoints import store as checkpoints
from leviathan_train.checkpoints.store import Checkpoint, FaultError, Seal
from leviathan_train.errors import LeviathanError
from leviathan_train.run.folder import Run
from leviathan_train.run.lookup import in_command


def changes(checkpoint: Checkpoint) -> list[str]:
    """What differs from the seal, or that there is none; empty if nothing does."""
    if checkpoint.state == "intact":
        return []
    if checkpoint.state == "unsealed":
        return ["it has no seal; its files are sound by structure"]
    try:
        found = list(seal.compare(checkpoint.path, seal.read(checkpoint.path)))
    except FaultError:
        found = []
    return found or [checkpoint.reason]


def reseal(run: Run, checkpoint: Checkpoint) -> Seal:
    """Seal a checkpoint as it lies on disk.

    Where the old seal is readable, what cannot be seen from the files (versions, config,
    time trained, loss sums) is taken from it, and the files that differ are named in its
    `trainer["edited"]`.

    Raises:
        LeviathanError: a file that a resume needs is missing or broken by its structure,
            or a training is writing the checkpoint.
        OSError: the disk refused.
    """
    path = checkpoint.path
    refusal = f"{checkpoint.name} cannot be sealed"
    if run.live_session() and not checkpoints.is_sealed(path):
        raise LeviathanError(
            f"{refusal}: {run.name} is training and may be writing it.",
            f"Pause it first:  leviathan pause {in_command(run)}",
        )
    try:
        facts = structure.read_facts(path, checkpoint.step)
        fault = next(structure.faults(path, seal.file_stats(path)), None)
    except FaultError as error:
        fault = str(error)
    if fault:
        raise LeviathanError(
            f"{refusal}: {fault}.", "Put the file back, or go on from another checkpoint."
        )
    try:
        old = seal.read(path)
    except FaultError:
        old = Seal(facts, 0.0, 0.0, checkpoints.ranks_of(checkpoint), {}, {}, {})
    edited = {name for name, (_, sha) in old.files.items() if not _is_same(path / name, sha)}
    edited.update(old.trainer.get("edited") or ())
    trainer = {**old.trainer, **({"edited": sorted(edited)} if edited else {})}
    return checkpoints.write_seal(
        run, path, replace(old, facts=facts, time=time.time(), trainer=trainer)
    )


def _is_same(file: Path, sha: str) -> bool:
    try:
        return seal.digest(file) == sha
    except OSError:
        return False
