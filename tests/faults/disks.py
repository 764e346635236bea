"""File systems that lose their power: loop-mounted, and shut down without a flush.

For root alone, where the kernel has the file system and its `mkfs` is installed; `missing` says
what is not there.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

GOING_DOWN = 0x8004587D
"""EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN: nothing is written from now on."""
NO_LOG_FLUSH = 2
KINDS = {"ext4": 64, "xfs": 300, "btrfs": 160}
"""File systems, and the MiB of the smallest one that is useful here."""
_MKFS = {
    "ext4": ["mkfs.ext4", "-q", "-F"],
    "xfs": ["mkfs.xfs", "-q", "-f"],
    "btrfs": ["mkfs.btrfs", "-q", "-f"],
}
_OPTIONS = {"ext4": "loop,commit=300", "xfs": "loop", "btrfs": "loop,commit=300"}
"""Nothing reaches the disk just because five seconds have passed."""


def missing(kind: str) -> str:
    """What a file system of this kind needs and this machine lacks; empty if it can be had."""
    if os.geteuid() != 0:
        return "needs root"
    if shutil.which(_MKFS[kind][0]) is None:
        return f"{_MKFS[kind][0]} is not installed"
    if not os.path.exists("/dev/loop-control"):
        return "no loop devices"
    known = Path("/proc/filesystems").read_text().split()
    if kind not in known and subprocess.run(["modprobe", "-q", kind], check=False).returncode:
        return f"the kernel has no {kind}"
    return ""


class Disk:
    """A file system in a file, mounted at `path`.

    btrfs knows no such ioctl: its file lies on an ext4 that is shut down instead, so that what
    btrfs had not flushed is lost below it.
    """

    def __init__(self, kind: str, folder: Path, size: int | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.kind = kind
        self.path = folder / "disk"
        self._image = folder / "image"
        self._below: Disk | None = None
        size = size or KINDS[kind]
        if kind == "btrfs":
            self._below = Disk("ext4", folder / "below", size + 64)
            self._image = self._below.path / "image"
        self.path.mkdir(exist_ok=True)
        with self._image.open("wb") as stream:
            if self._below:  # whole, so that a write changes no metadata below
                stream.write(bytes(size << 20))
                os.fsync(stream.fileno())
            else:
                stream.truncate(size << 20)
        _run(*_MKFS[kind], str(self._image))
        self._mount()

    def cut(self) -> None:
        """Cut the power: what was not forced to disk is gone."""
        if self._below:
            self._below.cut()
            return
        fd = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, GOING_DOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(fd)

    def restore(self) -> None:
        """Give the power back. Whoever used the disk must be dead."""
        self._unmount()
        if self._below:
            self._below.restore()
        self._mount()

    def remove(self) -> None:
        """Unmount it and delete its file."""
        self._unmount()
        if self._below:
            self._below.remove()
        else:
            self._image.unlink()

    def _mount(self) -> None:
        options = ("-t", self.kind, "-o", _OPTIONS[self.kind])
        _patiently("mount", *options, str(self._image), str(self.path))

    def _unmount(self) -> None:
        while str(self.path.absolute()) in Path("/proc/mounts").read_text():
            _patiently("umount", str(self.path))


def _patiently(*command: str) -> None:
    """Run a command that may fail while the kernel still lets go of a loop device."""
    deadline = time.monotonic() + 30.0
    while (done := subprocess.run(command, capture_output=True, text=True)).returncode:
        if time.monotonic() > deadline:
            raise AssertionError(f"{' '.join(command)}: {done.stderr}")
        time.sleep(0.2)


@contextlib.contextmanager
def disk(kind: str, folder: Path) -> Iterator[Disk]:
    """A disk for a while."""
    made = Disk(kind, folder)
    try:
        yield made
    finally:
        made.remove()
        shutil.rmtree(folder)


@contextlib.contextmanager
def tmpfs(path: Path, size: int) -> Iterator[Path]:
    """A file system in memory with room for `size` bytes."""
    path.mkdir(parents=True, exist_ok=True)
    _run("mount", "-t", "tmpfs", "-o", f"size={size},mode=0777", "tmpfs", str(path))
    try:
        yield path
    finally:
        _run("umount", "-l", str(path))


@contextlib.contextmanager
def quota(path: Path, size: int) -> Iterator[Path]:
    """A folder whose files may take `size` bytes: a subvolume of btrfs with a limit.

    It binds root, too, unlike the quotas of other file systems.
    """
    with disk("btrfs", path) as made:
        folder = made.path / "limited"
        _run("btrfs", "quota", "enable", str(made.path))
        _run("btrfs", "subvolume", "create", str(folder))
        _run("btrfs", "qgroup", "limit", str(size), str(folder))
        yield folder


def lift_quota(folder: Path) -> None:
    """Let the files of a folder with a quota take what there is."""
    _run("btrfs", "qgroup", "limit", "none", str(folder))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
