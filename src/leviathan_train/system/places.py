"""Where a user's programs keep what belongs to no project: the XDG base directories."""

from __future__ import annotations

import os
from pathlib import Path


def cache() -> Path:
    """The folder for what can be made again at any time."""
    return _below("XDG_CACHE_HOME", ".cache")


def state() -> Path:
    """The folder for what is worth keeping, and is lost without harm."""
    return _below("XDG_STATE_HOME", ".local/state")


def _below(variable: str, default: str) -> Path:
    if named := os.environ.get(variable):
        return Path(named) / "leviathan"
    home = os.path.expanduser("~")
    if home == "~":  # no HOME, and a user without an entry in passwd, as in some containers
        return Path(f"/tmp/leviathan-{os.getuid()}") / default
    return Path(home) / default / "leviathan"
