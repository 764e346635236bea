"""What a process left in its log: its last lines, and the error that ended it."""

from __future__ import annotations

import os
import re
from pathlib import Path

from leviathan_train.run.records import Cause

TAIL = 200_000
"""Bytes of a log in which its last error is looked for."""


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


def tail(path: Path, size: int = TAIL) -> str:
    """The last `size` bytes of a log; empty where it cannot be read."""
    try:
        with path.open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - size))
            return stream.read().decode("utf-8", "replace")
    except OSError:
        return ""
