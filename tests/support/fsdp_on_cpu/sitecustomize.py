"""What FSDP2 needs to shard over ranks on a CPU, for tests; torch itself can do it on gloo.

Axolotl 0.19 to 0.21 (`build_parallelism_config`) asks for a device mesh of GPUs in any case, and
accelerate (`AcceleratorState`) takes FSDP for a training on GPUs alone. Put this folder on
PYTHONPATH instead of `no_driver`, of which it does the same.
"""

from __future__ import annotations

import os
from typing import Any

if "LOCAL_RANK" in os.environ:
    import torch
    import torch.distributed.device_mesh as meshes
    from accelerate import state
    from accelerate.utils import DistributedType

    def _cannot_tell(device: object, peer: object) -> bool:
        raise AssertionError("no GPU, no peer")

    _init_device_mesh, _init_state = meshes.init_device_mesh, state.AcceleratorState.__init__

    def _mesh_of_cpus(device_type: str, *args: Any, **kwargs: Any) -> Any:
        return _init_device_mesh("cpu", *args, **kwargs)

    def _with_fsdp(self: Any, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        _init_state(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if self.distributed_type is DistributedType.MULTI_CPU and fsdp_plugin is not None:
            self.distributed_type = DistributedType.FSDP
            self.fsdp_plugin = fsdp_plugin
            state.PartialState._shared_state["distributed_type"] = self.distributed_type

    if not torch.cuda.is_available():
        torch.cuda.can_device_access_peer = _cannot_tell
        meshes.init_device_mesh = _mesh_of_cpus
        state.AcceleratorState.__init__ = _with_fsdp
