"""A text file that another process appends to, read line by line as it grows."""

from __future__ import annotations

import stat
from pathlib import Path

MOST = 256 << 20
"""Bytes that are read at once: the lines of two million steps."""


class LineReader:
    """The lines of a file, each read once.

    Args:
        path: the file; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read = 0

    def new(self) -> list[str]:
        """The lines added since the last call; half a line is left for the next one.

        Of a file that grew by more than `MOST` bytes only the last lines are read.
        """
        try:
            found = self.path.stat()
            if not stat.S_ISREG(found.st_mode) or found.st_size <= self._read:
                return []
            self._read = max(self._read, found.st_size - MOST)
            with self.path.open("rb") as stream:
                stream.seek(self._read)
                whole, newline, _ = stream.read(MOST).rpartition(b"\n")
        except OSError:
            return []
        if not newline:
            return []
        self._read += len(whole) + 1
        return whole.decode("utf-8", "replace").split("\n")
