"""The base model that a config names: where it is, its shape, and whether it is still the same.

A base model is known by its weights. Two fine-tunes of one base have the same
`config.json`, the same names and shapes, and the same size in bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from leviathan_train.system.files import read_json
from leviathan_train.system.safetensors import HeaderError, read_header

PLACES = 2048
"""Places that are read of a large model, at least one in each tensor."""
BLOCK = 4096
"""Bytes read at each place: a page, which is the least that a disk delivers."""

_UNIMPORTANT = {"_name_or_path", "transformers_version"}
"""What `save_pretrained` changes in a `config.json` although the model is the same."""


def is_local(name: str) -> bool:
    """Whether `name` means a path on this machine rather than a repository on a hub."""
    if "://" in name:
        return False
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or os.path.exists(name)


def model_folder(name: str, revision: str | None = None) -> Path | None:
    """The base model's folder: itself, or its snapshot in the hub's cache; None without one.

    Args:
        revision: of a model of the hub, `main` by default. Where the cache does not know it,
            the newest snapshot is taken.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    home = os.environ.get("HF_HOME") or os.path.expanduser("~/.cache/huggingface")
    hub = Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub")
    cached = hub / f"models--{name.replace('/', '--')}"
    try:
        commit = (cached / "refs" / (revision or "main")).read_text().strip()
    except OSError:
        commit = revision or ""
    if commit and (cached / "snapshots" / commit / "config.json").exists():
        return cached / "snapshots" / commit
    found = [path for path in cached.glob("snapshots/*") if (path / "config.json").exists()]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


@dataclass(frozen=True)
class Shape:
    """What a `config.json` tells of a decoder of the Llama kind.

    Attributes:
        queries, pairs: width of all queries of a layer, and of its keys and its values.
        norms_heads: whether queries and keys are normalised.
    """

    hidden: int
    layers: int
    queries: int
    pairs: int
    inner: int
    vocabulary: int
    norms_heads: bool


def shape_of(folder: Path) -> Shape | str:
    """The shape of the model in `folder`, or what is missing to tell it."""
    found = read_json(folder / "config.json")
    if not isinstance(found, Mapping):
        return f"{folder} has no config.json"
    text = found.get("text_config")
    told = text if isinstance(text, Mapping) else found
    if any(key in told for key in ("num_experts", "num_local_experts", "n_routed_experts")):
        return "of a mixture of experts it depends on the rows"
    try:
        hidden, heads = int(told["hidden_size"]), int(told["num_attention_heads"])
        head = int(told.get("head_dim") or hidden // heads)
        return Shape(
            hidden,
            int(told["num_hidden_layers"]),
            heads * head,
            int(told.get("num_key_value_heads") or heads) * head,
            int(told["intermediate_size"]),
            int(told["vocab_size"]),
            str(told.get("model_type")) in {"qwen3", "gemma3_text"},
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return f"the shape in {folder / 'config.json'} is not known"


def base_facts(name: str, revision: str | None = None) -> dict[str, Any]:
    """What a resume and a merge have to find again of a base model.

    Returns:
        `name`; and, where the model is on this machine, `config` (SHA-256 of its
        `config.json`), `settings` (the same without what says nothing of the model), `bytes`
        (size of its weights), `weights` (see `fingerprint`), and `files` (SHA-256 of each
        file of weights, where the hub's cache names its files by them).
    """
    facts: dict[str, Any] = {"name": name}
    folder = model_folder(name, revision)
    if folder is None:
        return facts
    try:
        text = (folder / "config.json").read_bytes()
        facts["config"] = hashlib.sha256(text).hexdigest()
        value = json.loads(text)
        kept = {key: item for key, item in value.items() if key not in _UNIMPORTANT}
        facts["settings"] = hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
    except (OSError, ValueError, AttributeError):
        pass
    try:
        # All files, as older seals counted them: duplicates in another format, too.
        counted = [*folder.glob("*.safetensors"), *folder.glob("*.bin")]
        facts["bytes"] = sum(path.stat().st_size for path in counted)
        if weights := fingerprint(folder):
            facts["weights"] = weights
        if files := _hub_hashes(folder):
            facts["files"] = files
    except OSError:
        pass
    return facts


def same_base(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool | None:
    """Whether two `base_facts` are of one model; None where nothing but the names can tell.

    The most telling facts that both have decide: the hub's hashes of whole files, then the
    fingerprints, then (older seals) `config.json` and the size.
    """
    if not old.get("config") or not new.get("config"):
        return True if old.get("name") == new.get("name") else None
    settings = "settings" if old.get("settings") and new.get("settings") else "config"
    if old[settings] != new[settings]:
        return False
    mine, theirs = old.get("files") or {}, new.get("files") or {}
    if mine and set(mine) == set(theirs):
        return bool(mine == theirs)
    if has_fingerprint(old) and has_fingerprint(new):
        return bool(old["weights"] == new["weights"])
    return bool(old.get("bytes") == new.get("bytes"))


def has_fingerprint(facts: Mapping[str, Any]) -> bool:
    """Whether the weights themselves are among these `base_facts`."""
    return bool(facts.get("weights"))


def weight_files(folder: Path) -> list[Path]:
    """The files of a model's weights, as transformers chooses them; empty if there are none."""
    for pattern in ("model*.safetensors", "*.safetensors", "pytorch_model*.bin", "*.bin"):
        if found := sorted(folder.glob(pattern)):
            return found
    return []


def fingerprint(folder: Path) -> str:
    """A hash of a model's weights by samples: milliseconds at any size; empty without weights.

    Of safetensors: name, dtype and shape of every tensor, and bytes at places that each
    tensor's name fixes, spread over the whole of it. A model of up to 8 MB is read whole. The
    hash does not depend on the folder, on the names of the files, nor on how the tensors are
    spread over them. Another dtype is another hash.

    Of `.bin` files: the checksums of all tensors, which torch keeps in the zip's directory,
    and samples. The hash depends on the names of the files.

    A change of a few rows of one large tensor can fall between the places: of 16 GB, one
    place is read in each 8 MB.

    Raises:
        OSError: a file cannot be read.
    """
    files = weight_files(folder)
    digest = hashlib.sha256()
    pieces: list[_Piece] = []
    for file in files:
        pieces += _tensors(file) or [
            _Piece(file.name, _checksums(file), file, 0, file.stat().st_size)
        ]
    total = sum(piece.size for piece in pieces)
    for piece in sorted(pieces):
        digest.update(f"{piece.name} {piece.kind} {piece.size}\n".encode())
    for block in _samples(sorted(pieces), total):
        digest.update(block)
    return digest.hexdigest() if files else ""


class _Piece(NamedTuple):
    """A tensor, or a file whose inside is not known: what is sampled by itself."""

    name: str
    kind: str
    file: Path
    start: int
    size: int


def _tensors(file: Path) -> list[_Piece]:
    """The tensors of a safetensors file; none of one that is not sound, or another kind of file."""
    try:
        header = read_header(file) if file.suffix == ".safetensors" else {}
    except HeaderError:
        return []
    return [
        _Piece(name, f"{entry.dtype} {list(entry.shape)}", file, entry.start, entry.size)
        for name, entry in header.items()
    ]


def _checksums(file: Path) -> str:
    """Name, size and CRC of everything in a zip, e.g. of torch.save; empty if it is none."""
    try:
        with zipfile.ZipFile(file) as archive:
            return repr([(one.filename, one.file_size, one.CRC) for one in archive.infolist()])
    except (zipfile.BadZipFile, OSError):
        return ""


def _samples(pieces: list[_Piece], total: int) -> Iterator[bytes]:
    """The bytes at each place, in order."""
    opened: dict[Path, int] = {}
    try:
        places = []
        for piece in pieces:
            if piece.file not in opened:
                opened[piece.file] = os.open(piece.file, os.O_RDONLY)
                # Without this the kernel reads 128 KB ahead at each place.
                os.posix_fadvise(opened[piece.file], 0, 0, os.POSIX_FADV_RANDOM)
            fd = opened[piece.file]
            places += [(fd, at, size) for at, size in _places(piece, total)]
        for fd, at, size in places:  # all are asked for first, so that a disk can order them
            os.posix_fadvise(fd, at, size, os.POSIX_FADV_WILLNEED)
        for fd, at, size in places:
            yield os.pread(fd, size, at)
    finally:
        for fd in opened.values():
            os.close(fd)


def _places(piece: _Piece, total: int) -> Iterator[tuple[int, int]]:
    """Offset in the file and size of what is read of a piece: all, or one block in each part."""
    if total <= PLACES * BLOCK or piece.size <= BLOCK:
        yield piece.start, piece.size
        return
    count = max(1, PLACES * piece.size // total)
    part = piece.size // count
    for number in range(count):
        seed = hashlib.sha256(f"{piece.name} {number}".encode()).digest()
        offset = int.from_bytes(seed[:8], "little") % max(1, part - BLOCK)
        yield piece.start + number * part + offset, BLOCK


def _hub_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of weights by name, of a snapshot in the hub's cache; else empty.

    There a snapshot's files are links to blobs. A blob of git-lfs, as all weights are, bears
    its SHA-256 as its name (huggingface_hub, `file_download.py`).
    """
    hashes = {}
    for file in weight_files(folder):
        blob = os.path.basename(os.readlink(file)) if file.is_symlink() else ""
        if not re.fullmatch(r"[0-9a-f]{64}", blob):
            return {}
        hashes[file.name] = blob
    return hashes
