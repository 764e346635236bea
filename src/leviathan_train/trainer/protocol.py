"""The attributes of transformers' Trainer that the trainer's side uses.

What is private there is not among them; see `upstream`.
"""

from __future__ import annotations

from typing import Any, Protocol


class TrainerLike(Protocol):
    """A Trainer, as far as it is used here."""

    args: Any
    state: Any
    control: Any
    model: Any
    optimizer: Any
    lr_scheduler: Any
    accelerator: Any
    callback_handler: Any
    is_deepspeed_enabled: bool
    is_fsdp_enabled: bool

    def add_callback(self, callback: Any) -> None: ...
    def remove_callback(self, callback: Any) -> None: ...
    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any: ...
    def get_sp_size(self) -> int: ...
