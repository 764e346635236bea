"""What a process left in its log: its last lines, and the error that ended it."""

from __future__ import annotations

import os
import re
from pathlib import Path

TAIL = 200_000
"""Bytes of a log in which its last error is looked for."""


def cause_in(log: Path) -> str:
    """The last error of a log, in one line."""
    lines = tail(log).splitlines()
    error = re.compile(
        r"^(?:\[rank\d+\]: *)?([A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit)\b.*)"
    )
    found = [match[1] for line in lines if (match := error.match(line))]
    # The launcher's own complaint about its child comes last and says nothing.
    own = [line for line in found if "CalledProcessError" not in line and "ChildFailed" not in line]
    if own:
        return " ".join(own[-1].split())[:500]
    if any("SIGKILL" in line for line in lines[-40:]):
        return "it was killed from outside (SIGKILL), perhaps by the kernel for want of memory"
    return "it ended without an error message"


def tail(path: Path, size: int = TAIL) -> str:
    """The last `size` bytes of a log; empty where it cannot be read."""
    try:
        with path.open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - size))
            return stream.read().decode("utf-8", "replace")
    except OSError:
        return ""
