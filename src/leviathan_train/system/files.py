"""Writing files so that a kill or a power cut never leaves half of one."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

TEMPORARY = ".tmp"
"""How the name of a file ends until it is whole."""


def read_json(path: Path) -> Any:
    """The document in `path`, or None where there is none that can be read.

    For records that are written whole or not at all; a checkpoint's own files are
    read where a fault in them can be told.
    """
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


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
    fd, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=TEMPORARY, dir=path.parent)
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


def folder_bytes(path: Path) -> int:
    """Sum of the sizes of the regular files below `path`, in bytes; links are not followed."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_size
    return total
