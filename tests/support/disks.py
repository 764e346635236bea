"""A small disk of its own, and how to fill it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

_CLONE_NEWNS = 0x00020000
"""A mount namespace of one's own (Linux, sched.h)."""


def mounts_of_our_own() -> None:
    """Let what this process and its children mount be seen by them alone, and end with them.

    Needs root; without it nothing can be mounted either.
    """
    if os.geteuid() == 0 and ctypes.CDLL(None).unshare(_CLONE_NEWNS) == 0:
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)


@contextlib.contextmanager
def disk_of(path: Path, size: str) -> Iterator[Path]:
    """A disk at `path` of so many bytes, e.g. `16m`, for as long as the block lasts."""
    path.mkdir()
    options = ["-o", f"size={size}", "tmpfs", str(path)]
    if subprocess.run(["mount", "-t", "tmpfs", *options], capture_output=True).returncode:
        pytest.skip("no right to mount a small disk")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


@contextlib.contextmanager
def unreadable(file: Path) -> Iterator[None]:
    """Let each read of a file fail with a real EIO: its place is taken by `/proc/PID/mem`."""
    mount = ["mount", "--bind", f"/proc/{os.getpid()}/mem", str(file)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a file")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(file)], check=True)


def fill(disk: Path) -> Path:
    """Leave not a byte free; the file that takes the room."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(b"x" * 4096)
        except OSError:
            return ballast
