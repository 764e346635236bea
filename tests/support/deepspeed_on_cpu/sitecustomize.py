"""What DeepSpeed needs to train on ranks on a CPU, for tests; it has a CPU of its own among its
accelerators (`DS_ACCELERATOR=cpu`).

accelerate (`PartialState`) knows no ranks without GPUs unless it is told to use the CPU, and then
leaves DeepSpeed out. Put this folder on PYTHONPATH instead of `no_driver`, and leave
ACCELERATE_USE_CPU out.
"""

from __future__ import annotations

import os
from typing import Any

if "LOCAL_RANK" in os.environ:
    import torch
    from accelerate import state

    def _cannot_tell(device: object, peer: object) -> bool:
        raise AssertionError("no GPU, no peer")

    def _gloo(self: Any, *args: Any, **kwargs: Any) -> tuple[str, state.DistributedType]:
        return "gloo", state.DistributedType.MULTI_GPU

    def _cpu(self: Any) -> None:
        self.device = torch.device("cpu")

    if not torch.cuda.is_available():
        torch.cuda.can_device_access_peer = _cannot_tell
        state.PartialState._prepare_backend = _gloo
        state.PartialState.set_device = _cpu
