"""A plugin that hangs the trainer in C at step 8, where no Python signal handler runs."""

from __future__ import annotations

import ctypes
import os
from typing import Any

from axolotl.integrations.base import BasePlugin
from transformers import TrainerCallback


class Hang(TrainerCallback):
    """Waits for ever for a lock that it holds itself."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 8:
            kind = ctypes.PyDLL if os.environ["HANG"] == "with the GIL" else ctypes.CDLL
            libc, mutex = kind(None), ctypes.create_string_buffer(64)
            libc.pthread_mutex_lock(mutex)
            libc.pthread_mutex_lock(mutex)


class HangPlugin(BasePlugin):
    def add_callbacks_post_trainer(self, cfg: Any, trainer: Any) -> list[TrainerCallback]:
        return [Hang()]
