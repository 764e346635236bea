"""What the end of a training means: the exit status, the cause, and what to do."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from leviathan_train.checkpoints import store as checkpoints
from leviathan_train.errors import DONE, FAILED, PAUSED, STOPPED, USAGE, LeviathanError, UsageError
from leviathan_train.run.folder import Run
from leviathan_train.run.records import Cause, End, Ending

TAIL = 200_000
"""Bytes of a log in which its last error is looked for."""


_USAGE_CAUSES = frozenset({Cause.CONFIG, Cause.UPSTREAM})


def exit_status(run: Run, end: End) -> int:
    """The exit status that a session's end means; see `leviathan train --help`."""
    if end.kind is Ending.FINISHED:
        return DONE
    if end.kind is Ending.PAUSED:
        return PAUSED
    if end.kind is Ending.CRASHED:
        return USAGE if end.cause in _USAGE_CAUSES else FAILED
    return PAUSED if checkpoints.latest(checkpoints.scan(run)) else STOPPED


def cause_in(log: Path) -> tuple[str, Cause]:
    """The last error of a log, in one line, and what it is a sign of.

    For a process that died without a record of its end: there the log is all there is.
    """
    lines = tail(log).splitlines()
    error = re.compile(
        r"^(?:\[rank\d+\]: *)?([A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit)\b.*)"
    )
    found = [match[1] for line in lines if (match := error.match(line))]
    # The launcher's own complaint about its child comes last and says nothing.
    own = [line for line in found if "CalledProcessError" not in line and "ChildFailed" not in line]
    if own:
        return " ".join(own[-1].split())[:500], _cause_of_class(own[-1].partition(":")[0])
    if any("SIGKILL" in line for line in lines[-40:]):
        return "killed by SIGKILL, possibly by the kernel's out-of-memory killer", Cause.DIED
    return "it ended without an error message", Cause.DIED


def _cause_of_class(name: str) -> Cause:
    """What the class of an exception is a sign of."""
    causes = {"OutOfMemoryError": Cause.GPU_MEMORY, "ValidationError": Cause.CONFIG}
    return causes.get(name.rpartition(".")[2], Cause.FAULT)


def plugin_failed_to_load(log: Path) -> bool:
    """Whether Axolotl's log says that our plugin did not load.

    axolotl 0.19 (integrations/base.py, `PluginManager.register`) logs it and trains on without
    the plugin; 0.21 raises.
    """
    failed = r"(Failed to load plugin|Could not load required plugin):? '?leviathan_train"
    return re.search(failed, tail(log)) is not None


def advice(run: Run, end: End) -> str:
    """What to do after a crash."""
    again = "then start the same command again"
    if end.cause is Cause.GPU_MEMORY:
        return f"Free the GPU ({_gpu_holders()}) or lower micro_batch_size, {again}."
    if end.cause is Cause.DISK:
        cleanup = f"leviathan checkpoints cleanup {run.name} --keep 1"
        return f"Free disk space, for example with:  {cleanup}    {again}."
    if end.cause is Cause.PLUGIN:
        return f"Make sure that {sys.executable} can import leviathan_train, {again}."
    if end.cause is Cause.DIED:
        return f"See in the system's log whether memory ran out (dmesg), {again}."
    return "Read the log, fix the cause, and start the same command again."


def _gpu_holders() -> str:
    from leviathan_train.system.gpu import Nvml

    held = "; ".join(f"GPU {gpu.index}: {gpu.holders()}" for gpu in Nvml()() if gpu.users)
    return f"now held by {held}" if held else "nvidia-smi shows who holds it"


def tail(path: Path, size: int = TAIL) -> str:
    """The last `size` bytes of a log; empty where it cannot be read."""
    try:
        with path.open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - size))
            return stream.read().decode("utf-8", "replace")
    except OSError:
        return ""


def failure(run: Run, end: End, log: Path) -> LeviathanError:
    """The error to show for a run whose last session crashed.

    Args:
        log: where the whole log of that session is.
    """
    why = " ".join(end.why.split())
    if end.cause is Cause.UPSTREAM:
        return UsageError(
            f"This version of Axolotl cannot be trained with: {why}",
            "Install one that is supported:  pip install leviathan-train",
        )
    if end.cause is Cause.CONFIG:
        return UsageError(f"Axolotl refuses the config: {why}", f"The whole log: {log}")
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
        (run.path / "debug.log").unlink(missing_ok=True)  # Axolotl's copy of its output
        run.path.rmdir()
    return Path(kept)
