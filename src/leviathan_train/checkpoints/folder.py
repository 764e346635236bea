"""What lies in a checkpoint's folder, and what only seems to: links may lead anywhere."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from leviathan_train.system.files import sync_file, sync_folder

SEAL = "leviathan.json"

Stat = tuple[int, int, int, int]
"""Size (-1: no regular file), mtime and ctime in nanoseconds, inode."""


def file_stats(path: Path, outside: set[str] | None = None) -> dict[str, Stat]:
    """What tells a changed file, for each file below `path`, by relative path.

    Links are followed. What is left of an interrupted write of the seal is passed over.

    Args:
        outside: if given, links that lead out of `path` are not walked into, and their names
            are added here: somebody else's checkpoint may link to anything.

    Raises:
        OSError: a folder cannot be read.
    """
    found: dict[str, Stat] = {}
    root, folders = os.path.realpath(path), [""]
    while folders:
        prefix = folders.pop()
        with os.scandir(f"{path}/{prefix}") as entries:
            for entry in entries:
                name = prefix + entry.name
                if not prefix and _is_leftover(entry.name):
                    continue
                leaves = outside is not None and entry.is_symlink() and _leaves(entry.path, root)
                if leaves and outside is not None and os.path.exists(entry.path):
                    outside.add(name)
                if entry.is_dir() and not leaves and not _leads_back(entry):
                    folders.append(name + "/")
                else:
                    found[name] = stat_of(entry.path)
    return found


def make_durable(path: Path, names: Iterable[str]) -> None:
    """Force files below `path`, and the folders that lead to them, to disk."""
    folders = {path}
    for name in names:
        sync_file(path / name)
        folders.update((path / name).parents[: name.count("/") + 1])
    for folder in folders:
        sync_folder(folder)


def stat_of(path: str) -> Stat:
    """What tells a changed file, behind a link too."""
    try:
        of = os.stat(path)
    except OSError:
        return (-1, 0, 0, 0)
    size = of.st_size if stat.S_ISREG(of.st_mode) else -1
    return (size, of.st_mtime_ns, of.st_ctime_ns, of.st_ino)


def _is_leftover(name: str) -> bool:
    return name.startswith(f".{SEAL}.") and name.endswith(".tmp")


def _leaves(link: str, root: str) -> bool:
    """Whether a link leads out of the folder `root`."""
    return os.path.commonpath([root, os.path.realpath(link)]) != root


def leads_out(path: Path, name: str) -> bool:
    """Whether a file of the checkpoint `path` is in fact one outside of it."""
    return _leaves(str(path / name), os.path.realpath(path))


def _leads_back(entry: os.DirEntry[str]) -> bool:
    """Whether a link leads to a folder that it lies in, so that a walk would never end."""
    if not entry.is_symlink():
        return False
    inside = os.path.realpath(os.path.dirname(entry.path))
    return os.path.commonpath([inside, target := os.path.realpath(entry.path)]) == target
