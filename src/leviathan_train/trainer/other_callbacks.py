"""The callbacks of transformers that a training has beside ours: silenced, restored, closed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from transformers import EarlyStoppingCallback
from transformers.integrations import TensorBoardCallback
from transformers.trainer_callback import ExportableState, PrinterCallback, ProgressCallback

from leviathan_train.trainer.protocol import TrainerLike


def quiet_progress(trainer: TrainerLike) -> None:
    """Switch tqdm and the printed dictionaries off: our own lines take their place."""
    trainer.args.disable_tqdm = True
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)


def restore_callbacks(trainer: TrainerLike) -> None:
    """Let early stopping go on counting, and newly added callbacks be saved.

    `restore_callback_states_from_checkpoint` would also bring back the old patience and
    replace the trainer's control, so only the counter is taken. A callback that the
    checkpoint did not know would raise KeyError at the first save (`_save_checkpoint`).
    """
    stored = trainer.state.stateful_callbacks
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, EarlyStoppingCallback):
            known = stored.get("EarlyStoppingCallback")
            known = known[-1] if isinstance(known, list) and known else known
            if isinstance(known, Mapping):
                counter = known.get("attributes", {}).get("early_stopping_patience_counter", 0)
                callback.early_stopping_patience_counter = counter
    for callback in [*trainer.callback_handler.callbacks, trainer.control]:
        if isinstance(callback, ExportableState):
            stored.setdefault(callback.__class__.__name__, callback.state())


def _tensorboards(trainer: TrainerLike) -> Iterator[Any]:
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback):
            yield callback


def drop_tensorboard_after(trainer: TrainerLike, step: int, folder: str) -> None:
    """Let TensorBoard forget what a session that died had logged after `step`."""
    for callback in _tensorboards(trainer):
        from torch.utils.tensorboard import SummaryWriter

        callback.tb_writer = SummaryWriter(folder, purge_step=step + 1)


def close_tensorboard(trainer: TrainerLike) -> None:
    """Write out what TensorBoard still holds; transformers does so only at a normal end."""
    for callback in _tensorboards(trainer):
        if callback.tb_writer:
            callback.tb_writer.close()
