"""What a run has to copy: its sealed checkpoints, known by their seals."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from leviathan_train.checkpoints import store
from leviathan_train.checkpoints.seal import SEAL
from leviathan_train.mirror.copies import Copy, CopyState
from leviathan_train.run.folder import Run
from leviathan_train.system.files import read_bytes


class Sealed:
    """The sealed checkpoints of a run, looked at again and again."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._known: dict[Path, tuple[object, bytes]] = {}

    def texts(self) -> dict[int, bytes]:
        """The text of each seal by step; a look costs a `stat` for each checkpoint."""
        found = {}
        for step, path in store.folders(self._run):
            try:
                of = (path / SEAL).stat()
                mark = (of.st_mtime_ns, of.st_size, of.st_ino)
                if self._known.get(path, (None,))[0] != mark:
                    self._known[path] = (mark, read_bytes(path / SEAL))
            except OSError:
                continue  # not sealed yet, or deleted since the look
            found[step] = self._known[path][1]
        return found


def sha_of(text: bytes) -> str:
    """SHA-256 of a seal's text, which tells it from another one of the same step."""
    return hashlib.sha256(text).hexdigest()


def named(step: int, seal_sha: str) -> str:
    """A copy in a record: its step, and which checkpoint of that step it is."""
    return f"{step}:{seal_sha[:16]}"


def names_of(copies: Iterable[Copy]) -> tuple[str, ...]:
    """The names in a record of those that are whole."""
    return tuple(
        named(copy.step, copy.seal_sha) for copy in copies if copy.state is CopyState.WHOLE
    )


def set_aside(run: Run) -> Iterator[str]:
    """The same for each checkpoint that is set aside in the run."""
    for seal in run.superseded.glob(f"*/checkpoint-*/{SEAL}"):
        try:
            yield sha_of(read_bytes(seal))
        except OSError:
            continue
