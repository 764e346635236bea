"""A text file that another process appends to, read line by line as it grows."""

from __future__ import annotations

from pathlib import Path


class LineReader:
    """The lines of a file, each read once.

    Args:
        path: the file; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read = 0

    def new(self) -> list[str]:
        """The lines added since the last call; half a line is left for the next one."""
        try:
            if self.path.stat().st_size <= self._read:
                return []
            with self.path.open("rb") as stream:
                stream.seek(self._read)
                whole, newline, _ = stream.read().rpartition(b"\n")
        except OSError:
            return []
        if not newline:
            return []
        self._read += len(whole) + 1
        return whole.decode("utf-8", "replace").split("\n")
