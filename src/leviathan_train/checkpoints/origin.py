"""What made a checkpoint, for the comparison with a config."""

from __future__ import annotations

from collections.abc import Mapping

from leviathan_train.checkpoints.store import Checkpoint, ranks_of
from leviathan_train.checkpoints.structure import STATE_BYTES
from leviathan_train.config.changes import Origin
from leviathan_train.system.files import read_json, read_object


def origin_of(checkpoint: Checkpoint) -> Origin:
    """What a checkpoint's seal tells of its making; without one, what its own files tell."""
    seal, ranks = checkpoint.seal, ranks_of(checkpoint)
    step, epoch = checkpoint.step, checkpoint.facts.epoch
    if seal and seal.config:  # a resealed checkpoint of plain Axolotl has none
        inputs = seal.trainer.get("inputs") or {}
        return Origin(step, epoch, ranks, seal.config, inputs, seal.versions)
    adapter = read_json(checkpoint.path / "adapter_config.json")
    return Origin(
        step,
        epoch,
        ranks,
        adapter_config=adapter if isinstance(adapter, Mapping) else None,
        trainer_state=read_object(checkpoint.path / "trainer_state.json", STATE_BYTES),
    )
