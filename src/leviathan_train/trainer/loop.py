"""What the callbacks of one training share: its process, its trainer, and how far it is."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from leviathan_train.checkpoints.store import Seal
from leviathan_train.config.load import Config
from leviathan_train.run.records import Cause, Request, RequestKind
from leviathan_train.trainer import optimizer_settings
from leviathan_train.trainer.process import TrainerProcess
from leviathan_train.trainer.protocol import TrainerLike
from leviathan_train.trainer.ranks import Ranks
from leviathan_train.trainer.seam import Seam


@dataclass
class Loop:
    """One training loop.

    Attributes:
        cfg: the config as Axolotl validated it.
        config: the config as it was written, which goes into the seals.
        inputs: facts of the base model and the data, which go into the seals.
        fresh: the optimizer's groups as the config gives them, before a checkpoint is loaded.
        schedule_steps: the steps that the schedule is made for.
        pausing: whether this step is the last one of the session.
        evaluation_owed: whether a pause broke an evaluation off.
        save_owed: whether a checkpoint could not be sealed, so that the next step is saved.
        resumed: the checkpoint that the training resumed from, and its seal.
        seconds_before: seconds of training in earlier sessions; `began` on the monotonic clock.
        seam: the log across the resume, until it is judged.
    """

    process: TrainerProcess
    trainer: TrainerLike
    cfg: Any
    config: Config
    ranks: Ranks
    inputs: Mapping[str, Any]
    fresh: list[optimizer_settings.Group] | None = None
    schedule_steps: int = 0
    pausing: bool = False
    evaluation_owed: bool = False
    save_owed: bool = False
    resumed: Path | None = None
    resumed_seal: Seal | None = None
    first_step: int = 0
    seconds_before: float = 0.0
    began: float = field(default_factory=time.monotonic)
    saved_at: float = field(default_factory=time.monotonic)
    seam: Seam | None = None

    @property
    def checkpoint(self) -> Path:
        """The checkpoint of the current step."""
        return self.process.run.checkpoint(self.trainer.state.global_step)

    @property
    def seconds_trained(self) -> float:
        """Seconds of training that led here, over all sessions."""
        return self.seconds_before + time.monotonic() - self.began

    @property
    def save_is_due(self) -> bool:
        """Whether a save is owed, or `leviathan_save_minutes` have passed since the last one."""
        minutes = self.cfg.leviathan_save_minutes
        return self.save_owed or (bool(minutes) and time.monotonic() - self.saved_at > minutes * 60)

    def owe_save(self) -> None:
        """Let the next step be saved; called from any thread."""
        self.save_owed = True

    @property
    def pause(self) -> Request:
        """The request that this training pauses for."""
        heard = self.process.listener.heard.pause
        return heard or Request(RequestKind.PAUSE, "another rank", cause=Cause.UNKNOWN)

    def asked(self) -> tuple[bool, bool]:
        """Whether any rank was asked to pause, and whether to save: the same on all ranks."""
        listener = self.process.listener
        if listener.is_deaf() and listener.heard.pause is None:
            listener.heard.pause = Request(
                RequestKind.PAUSE, "the end of its listener", time.time(), cause=Cause.LISTENER
            )
        pause, save = self.ranks.any(
            listener.heard.pause is not None, bool(listener.heard.saves) or self.save_is_due
        )
        return pause, save
