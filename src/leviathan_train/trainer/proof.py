"""Proving that a resume loaded what the checkpoint holds, before anything is claimed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from leviathan_train.errors import LeviathanError
from leviathan_train.trainer import sharded
from leviathan_train.trainer.optimizer_settings import Group
from leviathan_train.trainer.protocol import TrainerLike


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
    if not trainer.is_fsdp_enabled:  # else each rank has a part; see `sharded`
        if (verdict := _adapter_equals(trainer, checkpoint)) is not None:
            yield claim("adapter weights", verdict, checkpoint)
        if with_optimizer and (stored := _stored(checkpoint / "optimizer.pt")) is not None:
            live = _with_settings_of(stored, trainer.optimizer.state_dict(), fresh)
            yield claim("optimizer state", _tree_equal(stored, live), checkpoint)
    if (stored := _stored(checkpoint / "scheduler.pt")) is not None:
        same = _tree_equal(stored, trainer.lr_scheduler.state_dict())
        yield claim("LR schedule", same, checkpoint)


def claim(name: str, holds: bool, checkpoint: Path) -> str:
    """The name of what was compared with a checkpoint.

    Raises:
        LeviathanError: it does not hold.
    """
    if not holds:
        raise LeviathanError(f"The {name} did not load as {checkpoint} holds it.")
    return name


def _stored(file: Path) -> Any:
    return torch.load(file, map_location="cpu", weights_only=True) if file.is_file() else None


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
    live = sharded.adapter(trainer) if file.is_file() else {}
    if not live:
        return None
    stored = sharded.read(file)
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
