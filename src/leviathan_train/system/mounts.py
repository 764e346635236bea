"""File systems that may stop answering: a network mount whose server is gone.

A process that waits for one can often not even be killed. So another one looks first.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess

_LOCAL = frozenset(b"bcachefs btrfs exfat ext2 ext3 ext4 f2fs overlay tmpfs vfat xfs zfs".split())
_asked: dict[str, subprocess.Popen[bytes]] = {}
"""Who looked at a mount. It may outlive this process, until the mount answers or is gone."""
left_out: set[str] = set()
"""Mounts that `answers` found silent, so that something on them was passed over."""


def answers(path: Path) -> bool:
    """Whether what lies at `path` may be looked at; if not, its mount is noted."""
    if mount := silent(path):
        left_out.add(mount)
    return not mount


def silent(path: Path, patience: float = 2.0) -> str | None:
    """The mount that `path` lies on, if it does not answer. A process asks it once.

    Args:
        patience: seconds to wait for its answer.
    """
    if (mount := _mount_of(path)) is None:
        return None
    import subprocess  # seldom needed

    if mount not in _asked:
        # For its statistics, since the kernel remembers none. Whoever reads our output would
        # wait for a child that holds it open.
        quiet, command = subprocess.DEVNULL, ("stat", "-f", mount)
        try:
            _asked[mount] = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet)
        except FileNotFoundError:
            return None  # nobody to ask
    try:
        _asked[mount].wait(patience)
    except subprocess.TimeoutExpired:
        return mount
    return None


def _mount_of(path: Path) -> str | None:
    """The mount of no local disk that a path leads into; nothing on it is touched."""
    mounts = _mounts()
    names, here, links = os.path.abspath(path).split("/")[1:], "", 0
    while names and links < 40:
        here = f"{here}/{names.pop(0)}"
        if here in mounts:
            return here
        try:
            target = os.path.join(os.path.dirname(here), os.readlink(here))
        except OSError:
            continue  # no link
        names, here, links = os.path.normpath(target).split("/")[1:] + names, "", links + 1
    return None


@cache
def _mounts() -> frozenset[str]:
    """Where something else than a local disk is mounted."""
    fields = [line.split(b" ") for line in Path("/proc/self/mounts").read_bytes().splitlines()]
    found = [where for _, where, kind, *_ in fields if kind not in _LOCAL]
    return frozenset(os.fsdecode(one.decode("unicode_escape").encode("latin-1")) for one in found)
