"""Proving that a resume loaded what the checkpoint holds, before anything is claimed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.utils import is_peft_available

from leviathan_train.errors import LeviathanError
from leviathan_train.trainer.protocol import TrainerLike
from leviathan_train.trainer.settings import Group


def prove_loaded(
    trainer: TrainerLike,
    checkpoint: Path,
    fresh: Sequence[Group] = (),
    *,
    with_optimizer: bool = True,
) -> Iterator[str]:
    """Compare the loaded state with the checkpoint's files, and name what is equal.

    Args:
        fresh: the optimizer's groups as the config gives them. What is so in a loaded group
            may differ from the file: Axolotl 0.20 and later load a checkpoint's optimizer
            without its weight decay (`_load_optimizer_and_scheduler`).
        with_optimizer: false for an optimizer that is known not to restore its state.

    Yields:
        `adapter weights`, `optimizer state`, `LR schedule`: each only after every tensor
        of it was found equal.

    Raises:
        LeviathanError: something loaded is not what the file holds.
    """
    if trainer.is_deepspeed_enabled:
        return
    if trainer.is_fsdp_enabled:
        yield from _prove_schedule(trainer, checkpoint)
        return
    if (verdict := _adapter_equals(trainer, checkpoint)) is not None:
        yield _claim("adapter weights", verdict, checkpoint)
    for name, file, owner in (
        ("optimizer state", "optimizer.pt", trainer.optimizer),
        ("LR schedule", "scheduler.pt", trainer.lr_scheduler),
    ):
        if (checkpoint / file).is_file() and (with_optimizer or owner is not trainer.optimizer):
            stored = torch.load(checkpoint / file, map_location="cpu", weights_only=True)
            live = owner.state_dict()
            if owner is trainer.optimizer:
                live = _with_settings_of(stored, live, fresh)
            yield _claim(name, _tree_equal(stored, live), checkpoint)


def _prove_schedule(trainer: TrainerLike, checkpoint: Path) -> Iterator[str]:
    """What is the same on all ranks; see `sharded` for the rest."""
    file = checkpoint / "scheduler.pt"
    if file.is_file():
        stored = torch.load(file, map_location="cpu", weights_only=True)
        same = _tree_equal(stored, trainer.lr_scheduler.state_dict())
        yield _claim("LR schedule", same, checkpoint)


def _claim(name: str, holds: bool, checkpoint: Path) -> str:
    if not holds:
        raise LeviathanError(f"The {name} did not load as {checkpoint} holds it.")
    return name


def _with_settings_of(stored: Any, live: Any, fresh: Sequence[Group]) -> Any:
    """A loaded optimizer's state, where a group has the config's settings with the file's."""
    groups = stored.get("param_groups", ())
    if not len(groups) == len(live.get("param_groups", ())) == len(fresh):
        return live
    told = [
        group
        | {key: kept[key] for key in kept if key in given and _tree_equal(given[key], group[key])}
        for kept, group, given in zip(groups, live["param_groups"], fresh, strict=True)
    ]
    return {**live, "param_groups": told}


def _adapter_equals(trainer: TrainerLike, checkpoint: Path) -> bool | None:
    file = checkpoint / "adapter_model.safetensors"
    if not file.is_file() or not is_peft_available():
        return None
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors.torch import load_file

    model = trainer.accelerator.unwrap_model(trainer.model)
    if not isinstance(model, PeftModel):
        return None
    stored = load_file(file)
    live = get_peft_model_state_dict(model)
    shared = stored.keys() & live.keys()
    if not shared or any("lora_" in key for key in stored.keys() - shared):
        return False
    return all(_tensor_equal(stored[key], live[key]) for key in shared)


def _tensor_equal(stored: torch.Tensor, live: torch.Tensor) -> bool:
    stored = stored.to(device=live.device, dtype=live.dtype)
    return stored.shape == live.shape and bool(torch.equal(stored, live.detach()))


def _tree_equal(stored: Any, live: Any) -> bool:
    if isinstance(stored, torch.Tensor) and isinstance(live, torch.Tensor):
        return _tensor_equal(stored, live)
    if isinstance(stored, Mapping) and isinstance(live, Mapping):
        return stored.keys() == live.keys() and all(
            _tree_equal(stored[key], live[key]) for key in stored
        )
    if isinstance(stored, list | tuple) and isinstance(live, list | tuple):
        return len(stored) == len(live) and all(map(_tree_equal, stored, live))
    return bool(stored == live) or callable(live)


def counts(trainer: TrainerLike) -> tuple[int | None, int | None]:
    """Updates that the loaded optimizer has made, and steps that the loaded schedule counts.

    An optimizer without state, or whose every moment is 0, has made none.
    """
    made: int | None = None
    state = trainer.optimizer.state_dict().get("state")
    for entry in (state or {}).values():
        if isinstance(entry, Mapping) and "step" in entry:
            made = max(made or 0, int(entry["step"]))
    if state == {} or (made and _all_zero(state)):
        made = 0
    last = getattr(trainer.lr_scheduler, "last_epoch", None)
    return made, last if isinstance(last, int) else None


def _all_zero(state: Any) -> bool:
    moments = [
        value
        for entry in state.values()
        if isinstance(entry, Mapping)
        for key, value in entry.items()
        if key != "step" and isinstance(value, torch.Tensor) and value.is_floating_point()
    ]
    return bool(moments) and not any(bool(moment.any()) for moment in moments)
