"""End the training at a step's end when somebody asks for it; save when asked and go on.

A pause leaves the process from `on_save` (or from the evaluation that it breaks off), before
anything can happen that belongs to a finished training: the final adapter, the best model.
"""

from __future__ import annotations

import time
from typing import Any, NoReturn

from transformers import TrainerCallback

from leviathan_train.run.records import End, Ending
from leviathan_train.trainer import other_callbacks
from leviathan_train.trainer.loop import Loop
from leviathan_train.trainer.process import leave_process
from leviathan_train.trainer.writer import CheckpointWriter


class PauseCallback(TrainerCallback):
    """Obeys requests at the end of a step, on all ranks at the same one."""

    def __init__(self, loop: Loop, writer: CheckpointWriter) -> None:
        self.loop = loop
        self.writer = writer

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # After an evaluation `save_strategy: best` overwrites `should_save`
        # (transformers, `_maybe_log_save_evaluate`), so no save may have come.
        if self.loop.pausing:
            self._save_and_leave()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        pause, save = self.loop.asked()
        if pause and state.global_step < state.max_steps:
            self.loop.pausing = True
            epoch_ends = state.epoch is not None and float(state.epoch).is_integer()
            # At an epoch's end its evaluation is still to come; see `on_epoch_end`.
            if control.should_evaluate or not epoch_ends:
                control.should_save = True
        elif save:
            control.should_save = True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.loop.pausing:
            control.should_save = True

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A pause breaks an evaluation off; its first batch is drawn, so that the RNG is too."""
        loop = self.loop
        if not loop.pausing and not loop.asked()[0]:
            return
        if state.global_step == 0:
            by, cause = loop.pause.by, loop.pause.cause
            loop.process.leave_early(End(Ending.STOPPED, None, None, by, time.time(), cause))
        loop.evaluation_owed = True
        self._save_and_leave()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        loop = self.loop
        if loop.asked()[0] and state.global_step < state.max_steps:
            loop.pausing = True
        if loop.pausing:
            self._leave()

    def _save_and_leave(self) -> NoReturn:
        self.loop.pausing = True
        self.writer.save()
        self._leave()

    def _leave(self) -> NoReturn:
        """End the process after a pause; the checkpoint is re-read before anything is claimed."""
        loop, process = self.loop, self.loop.process
        if process.rank == 0:
            self.writer.prove()
            process.listener.last_step = loop.trainer.state.global_step
            name = loop.checkpoint.name
            # Before it is told, so that whoever reads it finds the session ended.
            process.close_session(Ending.PAUSED, name, loop.pause.by, loop.pause.cause)
            process.say(f"Checkpoint saved to {process.shown / name}")
            process.say("Training stopped gracefully.")
        loop.ranks.barrier()
        other_callbacks.close_tensorboard(loop.trainer)
        process.listener.close()
        loop.ranks.leave()
        leave_process()
