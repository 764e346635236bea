"""What ranks on a CPU need where torch is built for CUDA and no driver is installed.

`check_cuda_p2p_support` of Axolotl 0.19 to 0.21 asks torch whether GPUs reach each other, and
takes an AssertionError for "cannot tell". Without a driver torch raises a RuntimeError, which
ends the training. Put this folder on PYTHONPATH: ranks then get the error that Axolotl expects.
"""

from __future__ import annotations

import os

if "LOCAL_RANK" in os.environ:
    import torch

    def _cannot_tell(device: object, peer: object) -> bool:
        raise AssertionError("no GPU, no peer")

    if not torch.cuda.is_available():
        torch.cuda.can_device_access_peer = _cannot_tell
