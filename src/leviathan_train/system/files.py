"""Writing files so that a kill or a power cut never leaves half of one."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

TEMPORARY = ".tmp"
"""How the name of a file ends until it is whole."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_TOLD = tuple(sign for number in _FULL for sign in (os.strerror(number), f"(os error {number})"))
"""How a library of another language tells of a full disk in an exception of its own."""


RECORD_BYTES = 16 << 20
"""What a record or a seal holds at most. Written by us they are far smaller; what somebody
else's folder holds in their place may be of any size."""


def read_bytes(path: Path, most: int = RECORD_BYTES) -> bytes:
    """The content of a regular file of at most `most` bytes.

    Raises:
        OSError: it cannot be read, is longer, or is no regular file: a pipe would never end.
    """
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as stream:
        found = os.fstat(stream.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "no regular file", str(path))
        text = stream.read(found.st_size + 1 if found.st_size < most else most + 1) or b""
        while len(text) <= most and (more := stream.read(most + 1 - len(text))):
            text += more
    if len(text) > most:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return text


def read_json(path: Path, most: int = RECORD_BYTES) -> Any:
    """The document in `path`, or None where there is none that can be read.

    For records that are written whole or not at all; a checkpoint's own files are
    read where a fault in them can be told.
    """
    try:
        return json.loads(read_bytes(path, most))
    except (OSError, ValueError, RecursionError):
        return None


def read_object(path: Path, most: int = RECORD_BYTES) -> dict[str, Any]:
    """The JSON object in `path`; empty where there is none that can be read."""
    found = read_json(path, most)
    return found if isinstance(found, dict) else {}


def write_text(path: Path, text: str, *, durable: bool = False) -> None:
    """Replace `path` by `text` in one rename.

    Args:
        durable: also survive a power cut: fsync the file before the rename and the
            folder after it.
    """
    _write(path, text, os.replace, durable=durable)


def write_once(path: Path, value: Any) -> bool:
    """Write `value` as JSON, durably, unless `path` is there already; whether it was written.

    Of several writers at once the file system lets one win (`link` refuses a name that is
    taken), and a reader never sees half of it.
    """
    try:
        _write(path, _json(value), _link, durable=True)
    except FileExistsError:
        return False
    return True


def _link(temporary: str, path: Path) -> None:
    os.link(temporary, path)
    os.unlink(temporary)


def _write(path: Path, text: str, publish: Callable[[str, Path], None], *, durable: bool) -> None:
    import tempfile  # 5 ms that reading commands are spared

    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.name}."
    try:
        fd, temporary = tempfile.mkstemp(prefix=prefix, suffix=TEMPORARY, dir=path.parent)
    except OSError as error:
        error.filename = str(path)  # what the user knows
        raise
    try:
        with os.fdopen(fd, "w", encoding="utf-8", errors="surrogateescape") as stream:
            stream.write(text)
            stream.flush()
            os.fchmod(stream.fileno(), 0o644)
            if durable:
                os.fsync(stream.fileno())
        publish(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    if durable:
        sync_folder(path.parent)


def write_json(path: Path, value: Any, *, durable: bool = False) -> None:
    """Replace `path` by `value` as JSON; see `write_text`."""
    write_text(path, _json(value), durable=durable)


def _json(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"


def sync_file(path: Path) -> None:
    """Force a file's content to disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_folder(path: Path) -> None:
    """Force a folder's entries (creations, renames, deletions) to disk."""
    sync_file(path)


def free_bytes(path: Path) -> int | None:
    """What may still be written where `path` is, or will be, in bytes.

    None where the file system does not tell; a quota may allow less.
    """
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    try:
        found = os.statvfs(path)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize if found.f_blocks else None


def is_out_of_space(error: BaseException, folder: Path, need: int) -> bool:
    """Whether an error means that the disk of `folder`, or a quota on it, is full.

    `torch.save` raises a RuntimeError without the system's error number, so that in doubt it is
    tried whether `need` bytes can be had.
    """
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, OSError) and link.errno in _FULL:
            return True
        if any(sign in str(link) for sign in _TOLD):
            return True
        link = link.__cause__ or link.__context__
    if isinstance(error, OSError):
        return False
    import tempfile

    try:
        with tempfile.TemporaryFile(dir=folder) as stream:
            os.posix_fallocate(stream.fileno(), 0, max(need, 1))
    except OSError as refused:
        return refused.errno in _FULL
    return False


def folder_bytes(path: Path) -> int:
    """Sum of the sizes of the regular files below `path`, in bytes; links are not followed."""
    total = 0
    folders = [str(path)]
    while folders:  # os.walk of Python 3.11 calls itself for each level
        with contextlib.suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                else:
                    with contextlib.suppress(OSError):
                        total += entry.stat(follow_symlinks=False).st_size
    return total
