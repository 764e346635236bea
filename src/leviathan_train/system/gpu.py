"""The GPUs as the driver sees them, without torch."""

from __future__ import annotations

import contextlib
import os
import warnings
from dataclasses import dataclass
from typing import Any

from leviathan_train.system.units import size


@dataclass(frozen=True)
class Gpu:
    """One GPU as the driver sees it, all its users together. Bytes and percent.

    Attributes:
        utilisation: None where it is not told, as for a part of a GPU.
        users: pid and bytes held (None: not told) of each process that computes there.
    """

    index: int
    name: str
    used_bytes: int
    total_bytes: int
    utilisation: int | None = None
    users: tuple[tuple[int, int | None], ...] = ()

    @property
    def free_bytes(self) -> int:
        return self.total_bytes - self.used_bytes

    def holders(self) -> str:
        """Who holds its memory, in words; empty if nobody does."""
        return ", ".join(
            f"process {pid} ({_process_name(pid)})" + (f" with {size(held)}" if held else "")
            for pid, held in self.users
        )


class Nvml:
    """The NVIDIA driver's own numbers; no GPUs where there is no driver."""

    def __init__(self) -> None:
        self._library: Any = None  # no package, no driver, or a driver of another version
        with contextlib.suppress(Exception), warnings.catch_warnings(action="ignore"):
            import pynvml

            pynvml.nvmlInit()
            self._library = pynvml

    def __call__(self) -> tuple[Gpu, ...]:
        """All GPUs of this machine."""
        if self._library is None:
            return ()
        try:
            return tuple(map(self._read, range(self._library.nvmlDeviceGetCount())))
        except self._library.NVMLError:
            return ()

    def _read(self, index: int) -> Gpu:
        library = self._library
        handle = library.nvmlDeviceGetHandleByIndex(index)
        memory = library.nvmlDeviceGetMemoryInfo(handle)
        name = library.nvmlDeviceGetName(handle)
        try:
            busy = int(library.nvmlDeviceGetUtilizationRates(handle).gpu)
        except library.NVMLError:  # not told for a part of a GPU (MIG)
            busy = None
        return Gpu(
            index,
            name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name),
            int(memory.used),
            int(memory.total),
            busy,
            tuple(
                (int(user.pid), user.usedGpuMemory or None)
                for user in library.nvmlDeviceGetComputeRunningProcesses(handle)
            ),
        )


def used_by(pids: frozenset[int], gpus: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
    """The GPUs that `pids` use, or all if none of them is seen there, as in a container."""
    ours = tuple(gpu for gpu in gpus if pids & {pid for pid, _ in gpu.users})
    return ours or gpus


def visible(gpus: tuple[Gpu, ...], chosen: str | None = None) -> tuple[Gpu, ...]:
    """The GPUs that torch may use, given `CUDA_VISIBLE_DEVICES`: by default this process's."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES", "") if chosen is None else chosen
    numbers = {int(part) for part in chosen.split(",") if part.strip().isdigit()}
    return tuple(gpu for gpu in gpus if not numbers or gpu.index in numbers)


def _process_name(pid: int) -> str:
    import psutil

    try:
        return str(psutil.Process(pid).name())
    except psutil.Error:
        return "of another user or container"
