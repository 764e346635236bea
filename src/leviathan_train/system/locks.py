"""Files held as locks. The kernel frees them when their process dies, however it dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO


@contextlib.contextmanager
def locked(file: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold `file` against every other process; it is created, with its folder, if need be.

    Its holder may remove it, with its folder, before letting go.

    Args:
        wait: until whoever holds it lets go; otherwise raise at once.

    Raises:
        BlockingIOError: another process holds it, and `wait` is false.
    """
    while (stream := _take(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))) is None:
        pass
    with stream:
        yield


def _take(file: Path, how: int) -> IO[str] | None:
    """The locked file; None if it was removed by its last holder while we waited."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError), contextlib.ExitStack() as stack:
        stream = stack.enter_context(file.open("a"))
        fcntl.flock(stream, how)
        # The lock on a file that has no name any more excludes nobody.
        if os.path.samestat(os.fstat(stream.fileno()), file.stat()):
            stack.pop_all()
            return stream
    return None
