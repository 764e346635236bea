"""Fetching a copy into a run: resumable, verified, and under its name only when it is whole."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from leviathan_train.checkpoints import store
from leviathan_train.checkpoints.folder import make_durable
from leviathan_train.checkpoints.seal import SEAL, FaultError, digest, file_stats
from leviathan_train.errors import LeviathanError
from leviathan_train.mirror.copies import Copy
from leviathan_train.mirror.local import sha_of
from leviathan_train.mirror.remote import Remote
from leviathan_train.mirror.trouble import MirrorError, Trouble
from leviathan_train.run.folder import Run, busy
from leviathan_train.system import units
from leviathan_train.system.files import folder_bytes, free_bytes, is_out_of_space, sync_folder

_BLOCK = 8 << 20


def fetch(run: Run, remote: Remote, copy: Copy, on_bytes: Callable[[int], None]) -> Path:
    """Fetch a whole copy; what an interrupted fetch left is used.

    Args:
        on_bytes: called with the bytes that are here so far.

    Returns:
        The checkpoint's folder, every byte of it compared with its seal.

    Raises:
        MirrorError: the place cannot be used; what came so far stays for the next try. Or the copy
            is not what was sealed.
        LeviathanError: the run trains, has such a checkpoint already, or the disk here is full.
    """
    target = run.checkpoint(copy.step)
    folder = run.mirror_folder / "incoming" / f"{copy.name}-{copy.seal_sha[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    _check_room(run, copy, folder)
    try:
        _download(remote, copy, folder, on_bytes)
        make_durable(folder, file_stats(folder))
    except FaultError as fault:
        raise MirrorError(
            f"The copy of {copy.name} at {remote.place.shown} is not what was sealed: {fault}.",
            Trouble.DIFFERS,
            "Nothing of it was taken over.",
        ) from None
    except OSError as error:
        if is_out_of_space(error, run.path, 1):
            raise _no_room(run, copy) from error
        raise
    with run.locked():
        if session := run.live_session():
            raise busy(run, session)
        if target.exists():
            raise LeviathanError(
                f"{run.name} has a {copy.name} already, which is not replaced.",
                "Delete it, or move it away, if it is not wanted.",
            )
        run.begin_save(copy.name)  # the run's own: what this one lost could not pass for whole
        os.rename(folder, target)
        with contextlib.suppress(OSError):  # others may be begun there
            folder.parent.rmdir()
        sync_folder(run.path)
    found = store.inspect(run, target)
    if not found.intact:
        raise LeviathanError(f"{target} is not intact after it was fetched: {found.reason}.")
    return target


def _download(remote: Remote, copy: Copy, folder: Path, on_bytes: Callable[[int], None]) -> None:
    """Bring every file of a copy into `folder`, its seal last.

    Raises:
        FaultError: a file is not as the seal says; it was removed.
    """
    assert copy.seal is not None

    def count() -> None:
        on_bytes(folder_bytes(folder))

    for file, (size, sha) in copy.seal.files.items():
        parts = PurePosixPath(file).parts
        if not parts or file.startswith("/") or ".." in parts:
            raise FaultError(f"{file} leads out of the checkpoint")
        target = folder / file
        target.parent.mkdir(parents=True, exist_ok=True)
        had = target.exists()
        _complete(remote, copy.name, file, target, size, count)
        if had and digest(target) != sha:  # what was begun may be damaged
            target.unlink()
            _complete(remote, copy.name, file, target, size, count)
        if digest(target) != sha:
            target.unlink()
            raise FaultError(f"{file} has changed (SHA-256 differs)")
    text = remote.read(copy.name, SEAL)
    if sha_of(text) != copy.seal_sha:
        raise FaultError(f"{SEAL} was replaced meanwhile")
    (folder / SEAL).write_bytes(text)


def _complete(
    remote: Remote, name: str, file: str, target: Path, size: int, on_block: Callable[[], None]
) -> None:
    """Fetch what is missing at the end of a file."""
    at = target.stat().st_size if target.exists() else 0
    if at > size:
        target.unlink()
        at = 0
    with target.open("ab") as stream:
        while at < size:
            block = remote.read(name, file, at, min(size, at + _BLOCK))
            if not block:
                raise FaultError(f"{file} has {at} bytes instead of {size}")
            stream.write(block)
            at += len(block)
            on_block()


def _check_room(run: Run, copy: Copy, folder: Path) -> None:
    free = free_bytes(run.path)
    if free is not None and free < copy.bytes - folder_bytes(folder):
        raise _no_room(run, copy)


def _no_room(run: Run, copy: Copy) -> LeviathanError:
    return LeviathanError(
        f"No room for {copy.name} ({units.size(copy.bytes)}) on the disk of {run.path}.",
        "Free some space and type the same command again: it goes on where it ended.",
    )
