"""An Axolotl plugin for `measure_gpu.py`: caps the GPU's memory, and notes what each step takes.

Writes one JSON object a line to the folder that `MEASURE_OUT` names: of each step its seconds
and the peak of memory so far, and how long training stood still for a save.
"""

from __future__ import annotations

import json
import os
import resource
import time
from pathlib import Path
from typing import Any

import torch
from axolotl.integrations.base import BasePlugin
from transformers import TrainerCallback


class Recorder(BasePlugin):
    """Named before leviathan's plugin in `plugins`."""

    def pre_model_load(self, cfg: Any) -> None:
        """Allow torch no more than `MEASURE_MEMORY` bytes of the GPU."""
        limit = int(os.environ.get("MEASURE_MEMORY") or 0)
        if limit and torch.cuda.is_available():
            total = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total))

    def add_callbacks_pre_trainer(self, cfg: Any, model: Any) -> list[TrainerCallback]:
        return [Notes(Path(os.environ["MEASURE_OUT"]))]


class Notes(TrainerCallback):
    """Notes times and memory of a training."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / f"{os.getpid()}.jsonl"
        self.began = self.ended = 0.0
        self.saved: int | None = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.began = _now()
        if self.saved is not None:
            self._note(saved=self.saved, seconds=self.began - self.ended)
            self.saved = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.ended = _now()
        note: dict[str, Any] = {"step": state.global_step, "seconds": self.ended - self.began}
        if torch.cuda.is_available():
            note["allocated"] = torch.cuda.max_memory_allocated()
            note["reserved"] = torch.cuda.max_memory_reserved()
        else:
            note["reserved"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self._note(**note)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.saved = state.global_step

    def _note(self, **values: Any) -> None:
        with self.file.open("a") as stream:
            stream.write(json.dumps(values) + "\n")


def _now() -> float:
    """Monotonic seconds, once the GPU has done what was asked of it."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.monotonic()
