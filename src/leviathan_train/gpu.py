"""The GPUs as the driver sees them, without torch."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Gpu:
    """One GPU as the driver sees it, all its users together. Bytes and percent."""

    index: int
    name: str
    used_bytes: int
    total_bytes: int
    utilisation: int | None


class Nvml:
    """The NVIDIA driver's own numbers, where there is one."""

    def __init__(self) -> None:
        self._library: Any = None
        self._tried = False

    def __call__(self, pids: frozenset[int]) -> tuple[Gpu, ...]:
        """The GPUs that `pids` use, or all if none of them is seen there, as in a container."""
        if not self._tried:
            self._tried = True
            try:
                with warnings.catch_warnings(action="ignore"):
                    import pynvml
                pynvml.nvmlInit()
                self._library = pynvml
            except Exception:
                return ()  # no package, no driver, or a driver of another version
        if self._library is None:
            return ()
        try:
            return self._read(self._library, pids)
        except self._library.NVMLError:
            return ()

    def _read(self, library: Any, pids: frozenset[int]) -> tuple[Gpu, ...]:
        every, ours = [], []
        for index in range(library.nvmlDeviceGetCount()):
            handle = library.nvmlDeviceGetHandleByIndex(index)
            memory = library.nvmlDeviceGetMemoryInfo(handle)
            name = library.nvmlDeviceGetName(handle)
            try:
                busy = int(library.nvmlDeviceGetUtilizationRates(handle).gpu)
            except library.NVMLError:  # not told for a part of a GPU (MIG)
                busy = None
            text = name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
            every.append(Gpu(index, text, int(memory.used), int(memory.total), busy))
            users = library.nvmlDeviceGetComputeRunningProcesses(handle)
            if pids & {int(user.pid) for user in users}:
                ours.append(every[-1])
        return tuple(ours or every)
