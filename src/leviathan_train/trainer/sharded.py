"""An adapter that FSDP2 shards: each rank has a part of every tensor.

Every function here is called on all ranks. Only adapters are looked at: a second copy of a
whole model's shards might not fit into memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor, distribute_tensor

from leviathan_train.trainer.protocol import TrainerLike

ADAPTER = "adapter_model.safetensors"
_MODEL, _OPTIMIZER = "pytorch_model_fsdp_0", "optimizer_0"
"""Folders of a sharded state dict, as accelerate (utils/fsdp_utils.py) names them."""


def is_sharded(trainer: TrainerLike) -> bool:
    """Whether FSDP2 shards an adapter."""
    return bool(trainer.is_fsdp_enabled) and bool(adapter(trainer))


def save_adapter(trainer: TrainerLike, checkpoint: Path) -> None:
    """Write the whole adapter into a checkpoint of shards, for a merge.

    transformers writes none beside `pytorch_model_fsdp_0/`; Axolotl does elsewhere.
    """
    if not is_sharded(trainer) or (checkpoint / ADAPTER).exists():
        return
    whole = {key: _whole(value).cpu().contiguous() for key, value in adapter(trainer).items()}
    if trainer.args.should_save:
        from safetensors.torch import save_file

        save_file(whole, checkpoint / ADAPTER, metadata={"format": "pt"})
        model = _model(trainer)
        model.peft_config[model.active_adapter].save_pretrained(str(checkpoint))


def load_adapter(trainer: TrainerLike, checkpoint: Path) -> None:
    """Load what accelerate does not.

    With `state_dict_type: FULL_STATE_DICT`, accelerate 1.13 to 1.15 (`save_fsdp_model` and
    `load_fsdp_model` with `adapter_only`) writes the first rank's part of an adapter and loads
    it on that rank alone; the others would go on with fresh weights. The adapter that Axolotl
    writes beside it is whole.
    """
    file = checkpoint / ADAPTER
    if not is_sharded(trainer) or (checkpoint / _MODEL).is_dir() or not file.is_file():
        return
    stored = read(file)
    with torch.no_grad():
        for key, value in adapter(trainer).items():
            if key in stored:
                _local(value).copy_(_part(stored[key], value))


def prove_loaded(trainer: TrainerLike, checkpoint: Path) -> Iterator[tuple[str, bool]]:
    """Compare this rank's part of the loaded state with the checkpoint's files.

    Yields:
        `adapter weights`, `optimizer state`, and whether each is equal.
    """
    live = adapter(trainer)
    if (checkpoint / _MODEL).is_dir():
        yield "adapter weights", _same_as_saved({"model": live}, checkpoint / _MODEL)
    elif (checkpoint / ADAPTER).is_file():
        stored = read(checkpoint / ADAPTER)
        same = (
            torch.equal(_part(stored[key], value).to(_local(value)), _local(value))
            for key, value in live.items()
            if key in stored
        )
        yield "adapter weights", bool(stored.keys() & live.keys()) and all(same)
    if (checkpoint / _OPTIMIZER).is_dir():
        from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

        state = get_optimizer_state_dict(trainer.model, trainer.optimizer)
        yield "optimizer state", _same_as_saved({"optimizer": state}, checkpoint / _OPTIMIZER)


def _same_as_saved(live: Mapping[str, Any], folder: Path) -> bool:
    """Whether the tensors of a state are those of a sharded state dict."""
    import torch.distributed.checkpoint as distributed

    read = _emptied(live)
    distributed.load(read, storage_reader=distributed.FileSystemReader(folder))
    return _equal(live, read)


def _emptied(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return torch.full_like(value.detach(), -1)
    if isinstance(value, Mapping):
        return {key: _emptied(part) for key, part in value.items()}
    return [_emptied(part) for part in value] if isinstance(value, list) else value


def _equal(one: Any, other: Any) -> bool:
    """Whether the tensors of two states are equal; settings may have come from the config."""
    if isinstance(one, torch.Tensor):
        return bool(torch.equal(_local(one), _local(other)))
    if isinstance(one, Mapping):
        return all(_equal(part, other[key]) for key, part in one.items())
    if isinstance(one, list):
        return all(map(_equal, one, other))
    return True


def _model(trainer: TrainerLike) -> Any:
    return trainer.accelerator.unwrap_model(trainer.model)


def adapter(trainer: TrainerLike) -> Mapping[str, torch.Tensor]:
    """The adapter's tensors by peft's names, this rank's parts; empty without an adapter."""
    from peft import PeftModel, get_peft_model_state_dict

    model = _model(trainer)
    if not isinstance(model, PeftModel):
        return {}
    found: Mapping[str, torch.Tensor] = get_peft_model_state_dict(model)
    return found


def read(file: Path) -> Mapping[str, torch.Tensor]:
    """The tensors of a safetensors file, on the CPU."""
    from safetensors.torch import load_file

    stored: Mapping[str, torch.Tensor] = load_file(file)
    return stored


def _local(value: torch.Tensor) -> torch.Tensor:
    return value.to_local() if isinstance(value, DTensor) else value


def _whole(value: torch.Tensor) -> torch.Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value.detach()


def _part(stored: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """This rank's part of a whole tensor, sharded as `like` is."""
    if not isinstance(like, DTensor):
        return stored
    device = like.device_mesh.device_type
    placed = distribute_tensor(stored.to(device), like.device_mesh, like.placements)
    return placed.to_local()
