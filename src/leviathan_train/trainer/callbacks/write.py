"""Seal each checkpoint once it is written."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from leviathan_train.trainer.loop import Loop
from leviathan_train.trainer.writer import CheckpointWriter


class WriteCallback(TrainerCallback):
    """Seals what transformers writes."""

    def __init__(self, loop: Loop, writer: CheckpointWriter) -> None:
        self.loop = loop
        self.writer = writer

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.writer.seal()
