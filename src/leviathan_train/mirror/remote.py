"""The copies of one run at a place that fsspec opens.

    <url>/<run>/checkpoint-<step>/<file>          files first
    <url>/<run>/checkpoint-<step>/leviathan.json  the seal, last: from then on it is a copy
    <url>/<run>/leviathan-mirror.json             who writes here

Runs in a process of its own: fsspec's stores take a second to import, and may hang.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

from leviathan_train.checkpoints import seal as seals
from leviathan_train.checkpoints import store
from leviathan_train.checkpoints.seal import SEAL, FaultError
from leviathan_train.mirror.copies import Copy, CopyState
from leviathan_train.mirror.local import sha_of
from leviathan_train.mirror.place import Place
from leviathan_train.mirror.trouble import MirrorError, Trouble, told
from leviathan_train.system.files import sync_file, sync_folder

SET_ASIDE = "leviathan.superseded.json"
"""The name of a seal once its checkpoint belongs to a branch that was left."""
_OWNER = "leviathan-mirror.json"
_PART = ".part"
_BLOCK = 8 << 20
_WITH_FOLDERS = frozenset({"file", "local", "sftp", "ssh", "smb", "ftp"})
"""Protocols under which a folder must be made first and half a file can be seen. For others
`makedirs` would create a bucket."""


@dataclass(frozen=True)
class Owner:
    """Who writes at a place.

    Attributes:
        writer: a random name of the run's folder.
        host, folder: the same for people.
        at: when it was written, seconds since the epoch, by that host's clock.
    """

    writer: str = ""
    host: str = ""
    folder: str = ""
    at: float = 0.0


class Remote:
    """The copies of one run at a place.

    Every method raises MirrorError if the place cannot be used.

    Args:
        place: a URL, no command.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        with told(place):
            self._fs, root = fsspec.url_to_fs(place.url)
        protocols = self._fs.protocol
        names = {protocols} if isinstance(protocols, str) else set(protocols)
        self._has_folders = bool(names & _WITH_FOLDERS)
        self._is_local = bool(names & {"file", "local"})
        self._root = f"{root.rstrip('/')}/{place.run}"
        self._seals: dict[str, tuple[object, bytes]] = {}
        """Text of each seal that was read, and what tells whether it is another one."""

    def copies(self) -> list[Copy]:
        """All checkpoints there, oldest first."""
        with told(self.place):
            if self._is_local and not self._fs.isdir(self._root):
                return []
            self._fs.invalidate_cache()
            found = self._fs.find(self._root, detail=True)
            folders: dict[str, dict[str, Mapping[str, Any]]] = {}
            for path, info in found.items():
                folder, _, file = str(path)[len(self._root) :].lstrip("/").partition("/")
                if store.NAME.fullmatch(folder) and file:
                    folders.setdefault(folder, {})[file] = info
            copies = [self._copy(name, files) for name, files in folders.items()]
        return sorted(copies, key=lambda copy: copy.step)

    def _copy(self, name: str, infos: Mapping[str, Mapping[str, Any]]) -> Copy:
        sizes = {file: int(info.get("size") or 0) for file, info in infos.items()}
        step = int(name.rpartition("-")[2])
        if SEAL not in infos:
            aside = SET_ASIDE in infos
            state = CopyState.SET_ASIDE if aside else CopyState.PARTIAL
            sha = sha_of(self._read_seal(name, SET_ASIDE, infos[SET_ASIDE])) if aside else ""
            return Copy(name, step, state, "", sha, None, sizes)
        text = self._read_seal(name, SEAL, infos[SEAL])
        try:
            seal = seals.parse(text)
        except FaultError as fault:
            return Copy(name, step, CopyState.DAMAGED, str(fault), sha_of(text), None, sizes)
        reason = ""
        for file, (size, _) in seal.files.items():
            if file not in sizes:
                reason = f"{file} is missing"
            elif sizes[file] != size:
                reason = f"{file} has {sizes[file]} bytes instead of {size}"
        state = CopyState.DAMAGED if reason else CopyState.WHOLE
        return Copy(name, step, state, reason, sha_of(text), seal, sizes)

    def _read_seal(self, name: str, file: str, info: Mapping[str, Any]) -> bytes:
        mark = [str(info.get(key)) for key in ("ETag", "LastModified", "mtime", "size")]
        known = self._seals.get(f"{name}/{file}")
        if known is None or known[0] != mark:
            text = bytes(self._fs.cat_file(self._path(name, file)))
            known = self._seals[f"{name}/{file}"] = (mark, text)
        return known[1]

    def upload(self, path: Path, text: bytes, present: Copy | None = None) -> None:
        """Copy a sealed checkpoint: its files, each read back, then its seal.

        Args:
            text: its seal, as it was when the copy was planned.
            present: what is there under its name.

        Raises:
            FaultError: a file is not as the seal says.
            OSError: a file cannot be read; a retention may have deleted it.
        """
        seal, name = seals.parse(text), path.name
        there = present.sizes if present else {}
        with told(self.place):
            for file in (SEAL, SET_ASIDE):
                if file in there:
                    self._fs.rm_file(self._path(name, file))
        for file, (size, sha) in seal.files.items():
            self._upload_file(path / file, name, file, size, sha, try_old=there.get(file) == size)
        with told(self.place):
            for file in set(there) - set(seal.files) - {SEAL, SET_ASIDE}:
                self._fs.rm_file(self._path(name, file))
            self._write(self._path(name, SEAL), text)

    def _upload_file(
        self, local: Path, name: str, file: str, size: int, sha: str, *, try_old: bool
    ) -> None:
        """Copy one file, unless it is there already; `try_old` says whether that may be."""
        sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        with local.open("rb") as stream:
            while block := stream.read(_BLOCK):
                sha256.update(block)
                md5.update(block)
        if sha256.hexdigest() != sha:
            raise FaultError(f"{file} has changed (SHA-256 differs)")
        target = self._path(name, file)
        with told(self.place):
            if try_old and self._is_there(target, md5.hexdigest()):
                return  # of a copy that was interrupted
            self._put(target, lambda at: self._fs.put_file(str(local), at))
            info = self._fs.info(target)
            told_md5 = _md5_in(info)
            same = int(info.get("size") or 0) == size and told_md5 in {None, md5.hexdigest()}
            if not same and self._digest(target) != sha:  # an ETag need not be an MD5
                raise MirrorError(
                    f"The mirror {self.place.shown}: {name}/{file} is not what was written.",
                    Trouble.DIFFERS,
                )

    def _is_there(self, target: str, md5: str) -> bool:
        """Whether a file has this content for sure: the store itself gives its MD5."""
        self._fs.invalidate_cache()
        return _md5_in(self._fs.info(target)) == md5

    def _put(self, target: str, write: Callable[[str], object]) -> None:
        """Write a file; where half of it could be seen, under another name first.

        Args:
            write: writes all of it under the name that it is given.
        """
        if not self._has_folders:
            write(target)
            return
        self._fs.makedirs(str(PurePosixPath(target).parent), exist_ok=True)
        write(target + _PART)
        if self._is_local:
            sync_file(Path(target + _PART))
            os.replace(target + _PART, target)
            sync_folder(Path(target).parent)
            return
        if self._fs.exists(target):  # not every server renames over a file
            self._fs.rm_file(target)
        self._fs.mv(target + _PART, target)

    def _write(self, target: str, text: bytes) -> None:
        self._put(target, lambda at: self._fs.pipe_file(at, text))
        if bytes(self._fs.cat_file(target)) != text:
            raise MirrorError(
                f"The mirror {self.place.shown}: {target} is not what was written.", Trouble.DIFFERS
            )

    def _digest(self, target: str) -> str:
        with self._fs.open(target, "rb", block_size=_BLOCK) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def read(self, name: str, file: str, start: int | None = None, end: int | None = None) -> bytes:
        """The bytes of a file, or those from `start` to before `end`."""
        with told(self.place):
            return bytes(self._fs.cat_file(self._path(name, file), start=start, end=end))

    def set_aside(self, copy: Copy) -> None:
        """Mark a copy as one of a branch that was left, so that nobody resumes from it."""
        with told(self.place):
            self._write(self._path(copy.name, SET_ASIDE), self.read(copy.name, SEAL))
            self._fs.rm_file(self._path(copy.name, SEAL))

    def delete(self, copy: Copy) -> None:
        """Delete a copy, its seal first, so that no half of it passes for one."""
        with told(self.place):
            for file in sorted(copy.sizes, key=lambda file: file != SEAL):
                with contextlib.suppress(FileNotFoundError):
                    self._fs.rm_file(self._path(copy.name, file))
            if self._has_folders:
                self._fs.rm(self._path(copy.name, ""), recursive=True)

    def owner(self) -> Owner | None:
        """Who wrote here last, if anybody did."""
        with told(self.place):
            if self._is_local and not self._fs.isdir(self._root):
                return None
            try:
                value = json.loads(self._fs.cat_file(f"{self._root}/{_OWNER}"))
                return Owner(**{key: value[key] for key in ("writer", "host", "folder", "at")})
            except FileNotFoundError as error:
                if "bucket" in str(error).lower():
                    raise
                return None
            except (ValueError, KeyError, TypeError):
                return None

    def claim(self, owner: Owner) -> None:
        """Say who writes here; it also proves that one may."""
        with told(self.place):
            self._write(f"{self._root}/{_OWNER}", json.dumps(asdict(owner)).encode())

    def _path(self, name: str, file: str) -> str:
        return f"{self._root}/{name}/{file}".rstrip("/")


def _md5_in(info: Mapping[str, Any]) -> str | None:
    """The MD5 of a file that its store tells, in hexadecimal; None where it tells none.

    S3 gives one in the ETag of what was uploaded in one part, and Google's store in `md5Hash`.
    """
    tag = str(info.get("ETag") or "").strip('"')
    if re.fullmatch(r"[0-9a-f]{32}", tag):
        return tag
    for key in ("md5Hash", "content_md5"):
        with contextlib.suppress(ValueError, TypeError):
            if value := info.get(key):
                return (b64decode(value) if isinstance(value, str) else bytes(value)).hex()
    return None
