"""A file system that hands every call on to a folder, and answers nothing while a flag is set.

    python -m faults.passthrough BELOW MOUNTPOINT FLAG

As on a hard network mount whose server is gone, a call waits then until the flag, a file, is gone
again, or until this process is: the kernel lets each call that it has not answered fail.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import mfusepy

_STAT = ("st_mode", "st_ino", "st_nlink", "st_uid", "st_gid", "st_size", "st_blocks")
_SPACE = ("f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail", "f_files", "f_ffree")

_NOW, _OMIT = (1 << 30) - 1, (1 << 30) - 2
"""UTIME_NOW and UTIME_OMIT, which stand for a time."""


class PassThrough(mfusepy.Operations):
    """The calls, on a folder below.

    Args:
        flag: while this file exists, none is answered.
    """

    use_ns = True

    def __init__(self, below: str, flag: str) -> None:
        self._below, self._flag = below, flag

    def __getattribute__(self, name: str) -> Any:
        """An operation; it is looked up here for each call."""
        if not name.startswith("_"):
            while os.path.exists(self._flag):
                time.sleep(0.02)
        return super().__getattribute__(name)

    def _at(self, path: str) -> str:
        return self._below + path

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        found = os.lstat(self._at(path)) if fh is None else os.fstat(fh)
        times = {f"st_{which}time": getattr(found, f"st_{which}time_ns") for which in "amc"}
        return {key: getattr(found, key) for key in _STAT} | times

    def statfs(self, path: str) -> dict[str, int]:
        found = os.statvfs(self._at(path))
        return {key: getattr(found, key) for key in (*_SPACE, "f_favail", "f_namemax")}

    def readdir(self, path: str, fh: int) -> list[tuple[str, dict[str, Any], int]]:
        names = [".", "..", *os.listdir(self._at(path))]
        return [(name, self.getattr(os.path.join(path, name)), 0) for name in names]

    def readlink(self, path: str) -> str:
        return os.readlink(self._at(path))

    def open(self, path: str, flags: int) -> int:
        return os.open(self._at(path), flags & ~os.O_APPEND)  # the kernel gives the place

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        return os.open(self._at(path), os.O_CREAT | os.O_RDWR | (fi & os.O_EXCL), mode)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return os.pread(fh, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        return os.pwrite(fh, data, offset)

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        os.truncate(self._at(path) if fh is None else fh, length)
        return 0

    def fallocate(self, path: str, mode: int, offset: int, size: int, fh: int) -> int:
        os.posix_fallocate(fh, offset, size)
        return 0

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        os.fsync(fh)
        return 0

    def fsyncdir(self, path: str, datasync: int, fh: int) -> int:
        folder = os.open(self._at(path), os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return 0

    def release(self, path: str, fh: int) -> int:
        os.close(fh)
        return 0

    def mkdir(self, path: str, mode: int) -> int:
        os.mkdir(self._at(path), mode)
        return 0

    def rmdir(self, path: str) -> int:
        os.rmdir(self._at(path))
        return 0

    def unlink(self, path: str) -> int:
        os.unlink(self._at(path))
        return 0

    def rename(self, old: str, new: str) -> int:
        os.rename(self._at(old), self._at(new))
        return 0

    def link(self, target: str, source: str) -> int:
        os.link(self._at(source), self._at(target))
        return 0

    def symlink(self, target: str, source: str) -> int:
        os.symlink(source, self._at(target))
        return 0

    def chmod(self, path: str, mode: int) -> int:
        os.chmod(self._at(path), mode)
        return 0

    def chown(self, path: str, uid: int, gid: int) -> int:
        os.chown(self._at(path), uid, gid)
        return 0

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
        found, now = os.stat(self._at(path)), time.time_ns()
        given = times or (_NOW, _NOW)
        old = (found.st_atime_ns, found.st_mtime_ns)
        both = [{_NOW: now, _OMIT: was}.get(at, at) for at, was in zip(given, old, strict=True)]
        os.utime(self._at(path), ns=(both[0], both[1]))
        return 0


def main() -> None:
    below, mountpoint, flag = sys.argv[1:]
    # Nothing is answered from a memory in the kernel: what hangs, hangs at once.
    fresh = {"use_ino": True, "attr_timeout": 0, "entry_timeout": 0}
    mfusepy.FUSE(PassThrough(below, flag), mountpoint, foreground=True, **fresh)


if __name__ == "__main__":
    main()
