"""What the end of a training means: the exit status, the cause, and what to do."""

from __future__ import annotations

import sys

from leviathan_train.checkpoints import store as checkpoints
from leviathan_train.errors import DONE, FAILED, PAUSED, STOPPED, USAGE, LeviathanError, UsageError
from leviathan_train.launch.schedule import is_config_fault
from leviathan_train.run.folder import End, Run


def exit_status(run: Run, end: End) -> int:
    """The exit status that a session's end means; see `leviathan train --help`."""
    if end.kind == "finished":
        return DONE
    if end.kind == "paused":
        return PAUSED
    if end.kind == "crashed":
        return USAGE if is_config_fault(end) else FAILED
    return PAUSED if checkpoints.latest(checkpoints.scan(run)) else STOPPED


def advice(run: Run, end: End) -> str:
    """What to do after a crash."""
    why = end.why.lower()
    again = "then start the same command again"
    if "out of memory" in why and "cuda" in why:
        from leviathan_train.system.gpu import Nvml

        held = "; ".join(f"GPU {gpu.index}: {gpu.holders()}" for gpu in Nvml()() if gpu.users)
        who = f"now held by {held}" if held else "nvidia-smi shows who holds it"
        return f"Free the GPU ({who}) or lower micro_batch_size, {again}."
    if "no space left" in why or "disk quota" in why or "pytorchstreamwriter" in why:
        cleanup = f"leviathan checkpoints cleanup {run.name} --keep 1"
        return f"Free disk space, e.g. with:  {cleanup}    {again}."
    if "plugin" in why:
        return f"See that {sys.executable} can import leviathan_train, {again}."
    return "Read the log; when the cause is mended, start the same command again."


def failure(run: Run, end: End) -> LeviathanError:
    """The error to show for a run whose last session crashed."""
    session = run.session()
    log = session.log if session else run.logs
    if is_config_fault(end):
        return UsageError(f"Axolotl refuses the config: {end.why}", f"The whole log: {log}")
    return LeviathanError(f"Training failed: {end.why}", f"{advice(run, end)} The whole log: {log}")
