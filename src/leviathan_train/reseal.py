"""Sealing again a checkpoint that its owner edited on purpose."""

from __future__ import annotations

import time
from dataclasses import replace

from leviathan_train import checkpoints
from leviathan_train.checkpoints import Checkpoint, FaultError, Seal
from leviathan_train.errors import LeviathanError
from leviathan_train.run import Run


def changes(checkpoint: Checkpoint) -> list[str]:
    """What differs from the seal, or that there is none; empty if nothing does."""
    if checkpoint.seal is None:
        return ["it has no seal; its files are sound by structure" if checkpoint.intact else checkpoint.reason]
    return list(checkpoints.compare(checkpoint.path, checkpoint.seal))


def reseal(run: Run, checkpoint: Checkpoint) -> Seal:
    """Seal a checkpoint as it lies on disk.

    Raises:
        LeviathanError: a file that a resume needs is missing or broken by its structure.
    """
    stats = checkpoints.file_stats(checkpoint.path)
    try:
        facts = checkpoints.read_facts(checkpoint.path, checkpoint.step)
    except FaultError as fault:
        raise LeviathanError(f"{checkpoint.name} cannot be sealed: {fault}.") from None
    if fault_found := next(checkpoints.structure_faults(checkpoint.path, stats), None):
        raise LeviathanError(f"{checkpoint.name} cannot be sealed: {fault_found}.")
    seal = checkpoint.seal or Seal(facts, 0.0, 0.0, 1, {}, {}, {})
    return checkpoints.write_seal(run, checkpoint.path, replace(seal, facts=facts, time=time.time()))
