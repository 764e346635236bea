"""A plugin that makes each step last `PACE` seconds longer, so that a test can come in between."""

from __future__ import annotations

import os
import time
from typing import Any

from axolotl.integrations.base import BasePlugin
from transformers import TrainerCallback


class Pace(TrainerCallback):
    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        time.sleep(float(os.environ.get("PACE", "0")))


class PacePlugin(BasePlugin):
    def add_callbacks_post_trainer(self, cfg: Any, trainer: Any) -> list[TrainerCallback]:
        return [Pace()]
