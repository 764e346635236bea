"""The callbacks of a training, one concern each: resume, write, pause, report.

transformers calls them in this order at each event; `in_order` is the one place that says so.
After a save, `write` seals, `pause` leaves, and `report` tells of a step that goes on.
"""

from __future__ import annotations

from transformers import TrainerCallback

from leviathan_train.trainer.callbacks.pause import PauseCallback
from leviathan_train.trainer.callbacks.report import ReportCallback
from leviathan_train.trainer.callbacks.resume import ResumeCallback
from leviathan_train.trainer.callbacks.write import WriteCallback
from leviathan_train.trainer.loop import Loop
from leviathan_train.trainer.writer import CheckpointWriter


def in_order(loop: Loop, writer: CheckpointWriter) -> tuple[TrainerCallback, ...]:
    """The callbacks of a training, in the order in which they must be called."""
    return (
        ResumeCallback(loop, writer),
        WriteCallback(loop, writer),
        PauseCallback(loop, writer),
        ReportCallback(loop),
    )
