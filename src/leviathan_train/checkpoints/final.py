"""The final adapter of a training that ended by itself: `checkpoint-final`."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from leviathan_train.checkpoints import retention, store
from leviathan_train.checkpoints.store import Checkpoint
from leviathan_train.config.redact import REDACTED
from leviathan_train.run.folder import Run
from leviathan_train.run.records import Ending
from leviathan_train.system.files import sync_file, sync_folder, write_text

FINAL_FILE = re.compile(
    r"adapter_|.*token|vocab|merges|spiece|chat_template|(config|generation_config"
    r"|preprocessor_config|processor_config)\.json$|README\.md$"
)
"""What a final adapter consists of; people leave other files beside it."""


def hide_secrets(card: Path, hidden: set[str]) -> None:
    """Take credentials out of the model card, where axolotl (train.py) quotes the config."""
    if hidden and card.is_file():
        text = card.read_text(encoding="utf-8")
        for secret in sorted(hidden, key=len, reverse=True):
            text = text.replace(secret, REDACTED)
        write_text(card, text)


def keep_final(run: Run) -> None:
    """Copy the final adapter and its tokenizer to `checkpoint-final`, replaced in one rename."""
    temporary = run.path / ".leviathan-final.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    for file in run.path.iterdir():
        if file.is_file() and FINAL_FILE.match(file.name):
            shutil.copy2(file, temporary / file.name)
            sync_file(temporary / file.name)
    sync_folder(temporary)
    if run.final.exists():
        retention.remove_tree(run.final, run.path / ".leviathan-deleting-checkpoint-0")
    temporary.rename(run.final)
    sync_folder(run.path)


def finished_at(run: Run, found: Sequence[Checkpoint]) -> int | None:
    """The step at which the run's training ended by itself; None if it did not."""
    session = run.session()
    if session is not None:
        end = session.end
        return end.step if end and end.kind is Ending.FINISHED else None
    # Plain Axolotl: the last checkpoint is of the last step, and the final adapter is there.
    newest = store.latest(found)
    final = any(run.path.glob("adapter_model.*")) or any(run.path.glob("model*.safetensors"))
    if newest and final and newest.facts.max_steps == newest.step:
        return newest.step
    return None
