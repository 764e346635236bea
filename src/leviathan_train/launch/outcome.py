"""What the end of a training means: the exit status, the cause, and what to do."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

from leviathan_train.checkpoints import store as checkpoints
from leviathan_train.errors import (
    DONE,
    FAILED,
    PAUSED,
    STOPPED,
    USAGE,
    DiskFullError,
    LeviathanError,
    UsageError,
)
from leviathan_train.launch.command import launcher_refuses
from leviathan_train.run.folder import Run
from leviathan_train.run.lookup import in_command
from leviathan_train.run.records import Cause, End, Ending

_LONG = 240
"""Characters of a cause that are shown; the log has the rest."""
_AT_START = frozenset(
    (
        *("adapter_config.json", "config.json", "generation_config.json", "debug.log"),
        *("preprocessor_config.json", "processor_config.json", "tokenizer_config.json"),
        *("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt"),
        *("added_tokens.json", "special_tokens_map.json"),
        *("chat_template.jinja", "chat_template.json"),
    )
)
"""Files that Axolotl writes before the first step (train.py, `save_initial_configs`)."""
_USAGE_CAUSES = frozenset({Cause.CONFIG, Cause.USAGE, Cause.UPSTREAM})


def exit_status(run: Run, end: End) -> int:
    """The exit status that a session's end means; see `leviathan train --help`."""
    if end.kind is Ending.FINISHED:
        return DONE
    if end.kind is Ending.PAUSED:
        return PAUSED
    if end.kind is Ending.CRASHED and end.cause is not Cause.DISK:
        return USAGE if end.cause in _USAGE_CAUSES else FAILED
    if checkpoints.latest(checkpoints.scan(run)):
        return PAUSED
    return FAILED if end.kind is Ending.CRASHED else STOPPED


def advice(run: Run, end: End) -> str:
    """What to do after a crash."""
    again = "then start the same command again"
    if end.cause is Cause.GPU_MEMORY:
        return f"Free the GPU ({_gpu_holders()}) or lower micro_batch_size, {again}."
    if end.cause is Cause.DISK:
        return f"Free disk space, for example with:  {cleanup_command(run)}    {again}."
    if end.cause is Cause.PLUGIN:
        return f"Make sure that {sys.executable} can import leviathan_train, {again}."
    if end.cause is Cause.DIED:
        return f"See in the system's log whether memory ran out (dmesg), {again}."
    return "Read the log, fix the cause, and start the same command again."


def cleanup_command(run: Run, what: str = "--keep 1") -> str:
    """The command that frees disk space, as it can be typed here."""
    return f"leviathan checkpoints cleanup {in_command(run)} {what}"


def _gpu_holders() -> str:
    from leviathan_train.system.gpu import Nvml

    held = "; ".join(f"GPU {gpu.index}: {gpu.holders()}" for gpu in Nvml()() if gpu.users)
    return f"now held by {held}" if held else "nvidia-smi shows who holds it"


def failure(run: Run, end: End, log: Path, again: str = "") -> LeviathanError:
    """The error to show for a run whose last session crashed.

    Args:
        log: where the whole log of that session is.
        again: the command that resumes the run.
    """
    why = " ".join(end.why.split())
    why = why if len(why) <= _LONG else f"{why[: _LONG - 3]}..."
    if end.cause is Cause.UPSTREAM:
        return UsageError(
            f"This version of Axolotl cannot be trained with: {why}",
            "Install one that is supported:  pip install leviathan-train",
        )
    if end.cause is Cause.USAGE:
        return launcher_refuses(why)
    if end.cause is Cause.CONFIG:
        return UsageError(f"Axolotl refuses the config: {why}", f"The whole log: {log}")
    if end.cause is Cause.DISK and (last := checkpoints.latest(checkpoints.scan(run))):
        return DiskFullError(
            f"Training stopped: {why}. {last.name} is intact.",
            f"Free disk space, for example with:  {cleanup_command(run)}    then resume with:"
            f"  {again or 'the same command'}    The whole log: {log}",
        )
    told = f"{advice(run, end)} The whole log: {log}"
    return LeviathanError(f"Training failed: {why}", told)


def discard(run: Run, log: Path) -> Path:
    """Remove a run that was made for a start which failed before its first step.

    Only what leviathan and Axolotl write at a start goes; a folder that holds anything else
    stays with it.

    Returns:
        Where the log is now: in the folder for temporary files.
    """
    handle, kept = tempfile.mkstemp(prefix=f"leviathan_{run.name}_", suffix=".log")
    os.close(handle)
    try:
        shutil.copyfile(log, kept)
    except OSError:
        os.unlink(kept)
        return log
    for folder in (run.records, run.logs):
        shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        found = list(run.path.iterdir())
        if all(file.name in _AT_START and not file.is_dir() for file in found):
            for file in found:
                file.unlink()
            run.path.rmdir()
    return Path(kept)
