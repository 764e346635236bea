"""How far two checkpoints differ: `python -m leviathan_train.jobs.compare ONE OTHER` prints JSON.

A process of its own, since it needs torch.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file


def compare(one: Path, other: Path) -> dict[str, Any]:
    """Largest absolute differences of adapter, optimizer state and logged losses.

    Returns:
        `adapter`, `optimizer`, `loss`: largest difference; `identical`: whether every
        tensor and every logged loss is equal in every bit; `losses`: how many were compared.
    """
    files = list(one.glob("adapter_model.safetensors")) or sorted(one.glob("model*.safetensors"))
    adapters = [
        pair for file in files for pair in _pairs(load_file(file), load_file(other / file.name))
    ]
    optimizers = list(_pairs(_load(one / "optimizer.pt"), _load(other / "optimizer.pt")))
    losses = list(zip(_losses(one), _losses(other), strict=True))
    same = [torch.equal(a, b) for a, b in (*adapters, *optimizers)] + [a == b for a, b in losses]
    return {
        "adapter": _largest(adapters),
        "optimizer": _largest(optimizers),
        "loss": max((abs(a - b) for a, b in losses), default=0.0),
        "losses": len(losses),
        "identical": all(same),
    }


def _load(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def _losses(checkpoint: Path) -> list[float]:
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    return [float(entry["loss"]) for entry in state["log_history"] if "loss" in entry]


def _pairs(one: Any, other: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The tensors that stand in the same places."""
    if isinstance(one, torch.Tensor):
        yield one, other
    elif isinstance(one, Mapping):
        for key in one:
            yield from _pairs(one[key], other[key])
    elif isinstance(one, list | tuple):
        for a, b in zip(one, other, strict=True):
            yield from _pairs(a, b)


def _largest(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
    return max(
        (float((a.float() - b.float()).abs().max()) for a, b in pairs if a.numel()), default=0.0
    )


if __name__ == "__main__":
    print(json.dumps(compare(Path(sys.argv[1]), Path(sys.argv[2]))))
