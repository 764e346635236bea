"""Our own keys in the YAML, as the pydantic model that Axolotl merges into its schema.

Imported by the trainer and by the job that lists the known keys; the command line stays
without pydantic's models.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field


class LeviathanArgs(BaseModel):
    """What `LeviathanPlugin.get_input_args` names."""

    leviathan_save_minutes: float | None = Field(
        default=None,
        gt=0,
        description="Also save when this many minutes passed since the last save.",
    )
    leviathan_keep_best: bool | Annotated[int, Field(ge=0)] | None = Field(
        default=None,
        description="Keep the best K checkpoints besides save_total_limit (default true: 1).",
    )
    leviathan_keep_every: int | None = Field(
        default=None, ge=1, description="Keep each checkpoint whose step is a multiple of this."
    )
    leviathan_mirror: str | None = Field(
        default=None,
        description="Copy each checkpoint there: a URL, or a command with {path} in it.",
    )
    leviathan_mirror_keep: int | None = Field(
        default=None, ge=1, description="Keep the newest N copies there, and the best."
    )
