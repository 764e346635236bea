"""What the files of a checkpoint show by themselves, where there is no seal to compare with.

Nothing is unpickled. What cannot be seen in this way is listed in docs/checkpoints.md.
Functions that take `whole` read every byte where it is true; else headers, directories and
ends of files, which takes a millisecond.
"""

from __future__ import annotations

import errno
import json
import os
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from leviathan_train.checkpoints.seal import (
    Facts,
    FaultError,
    Stat,
    facts_of,
    leads_out,
    unreadable,
)
from leviathan_train.system.files import read_bytes
from leviathan_train.system.safetensors import HeaderError, read_header

_STATE = "trainer_state.json"
_BLOCK = 1 << 20
STATE_BYTES = 256 << 20
"""What `trainer_state.json` holds at most: the lines of half a million logged steps."""
_JSON_BYTES = 64 << 20
_DIRECTORY_BYTES = 64 << 20
"""What the directory of a `.pt` file takes at most: that of half a million tensors."""
_SMALL = 1 << 16
"""Bytes of JSON that are parsed even for a look at the ends."""
_LOG, _ENTRY = b'\n  "log_history": [', b"\n    {"
_AFTER_LOG = b'\n  ],\n  "logging_steps"'
"""Where the log lies in a state as transformers writes it (`TrainerState.save_to_json`)."""
_EVALUATED = b"eval_loss"
_ZIP = b"PK\x03\x04"
_WEIGHTS = re.compile(r"(adapter_model|model|pytorch_model)[\w.-]*\.(safetensors|bin)")
_SHARD = re.compile(r"((?:model|pytorch_model)[\w.]*)-\d{5}-of-\d{5}\.(safetensors|bin)")
_NESTED = re.compile(r"/adapter_model\.(safetensors|bin)$")
_RNG = re.compile(r"rng_state_(\d+)\.pth")
_ZERO = re.compile(r"global_step\d+/(?:bf16_)?zero_pp_rank_(\d+)_mp_rank_\d+_optim_states\.pt")
_PART = re.compile(r"[^/]+/__(\d+)_\d+\.distcp")


def read_state(path: Path, *, whole: bool = True) -> dict[str, Any]:
    """`trainer_state.json` of a checkpoint; if not `whole`, of a long log only the last lines.

    Raises:
        FaultError: it is missing, unreadable, or no trainer state.
    """
    if leads_out(path, _STATE):
        raise FaultError(f"{_STATE} is a link out of the checkpoint, which is not read")
    try:
        text = read_bytes(path / _STATE, STATE_BYTES)
        value = json.loads(text if whole else _without_old_lines(text))
    except OSError as error:
        raise FaultError(unreadable(_STATE, error)) from None
    except (ValueError, RecursionError):
        raise FaultError(f"{_STATE} is not valid JSON") from None
    step = value.get("global_step") if isinstance(value, dict) else None
    if type(step) is not int or abs(step) >= 1 << 63:
        raise FaultError(f"{_STATE} names no global_step")
    state: dict[str, Any] = value
    if not isinstance(state.get("log_history", []), list):
        raise FaultError(f"{_STATE} has a log_history that is no list")
    return state


def _without_old_lines(text: bytes) -> bytes:
    """A trainer state whose log holds its last lines and the last evaluation, if it is long.

    All of it where it is not laid out as transformers does.
    """
    start, end = text.find(_LOG, 0, _SMALL), text.rfind(_AFTER_LOG)
    first = text.find(_ENTRY, max(start, end - _SMALL), end)
    if not 0 <= start < first:
        return text
    kept = text[first:]
    found = -1 if _EVALUATED in kept else text.rfind(_EVALUATED, start, first)
    if found >= 0:
        kept = text[text.rfind(_ENTRY, start, found) : text.find(_ENTRY, found)] + kept
    return text[:start] + _LOG + kept


def read_facts(path: Path, number: int, *, whole: bool = True) -> Facts:
    """The facts of a checkpoint from its `trainer_state.json`.

    Of a long log that is not read whole, the best loss of earlier evaluations stays unknown.

    Raises:
        FaultError: the file is missing, broken, or of another step than the folder's number.
    """
    state = read_state(path, whole=whole)
    if state["global_step"] != number:
        raise FaultError(f"{_STATE} is of step {state['global_step']}")
    facts = facts_of(state)
    return facts if whole else replace(facts, best_eval_loss=None)


def faults(path: Path, stats: Mapping[str, Stat], *, whole: bool = True) -> Iterator[str]:
    """What a resume would miss or find broken, one line each.

    `trainer_state.json` is not read again; see `read_facts`.
    """
    yield from _missing(set(stats))
    yield from file_faults(path, set(stats) - {_STATE}, whole=whole)
    for name in sorted(stats):
        if name.endswith(".index.json") and "/" not in name:
            yield from _missing_shards(path, name, stats)
        elif name.endswith("/.metadata"):
            yield from _missing_parts(path, name, stats)
    if "latest" in stats:  # DeepSpeed reads the folder to load from it
        yield from _missing_tag(path, stats)


def file_faults(path: Path, names: Iterable[str], *, whole: bool) -> Iterator[str]:
    """What is wrong with files of a checkpoint by their own structure, one line each."""
    for name in sorted(names):
        if fault := _file_fault(path / name, name, whole=whole):
            yield fault


def _missing(names: set[str]) -> Iterator[str]:
    """What is not there, judged by the names alone."""
    top = {name for name in names if "/" not in name}
    inside = {name.split("/")[0] for name in names - top}
    deepspeed = "latest" in top or any(name.startswith("global_step") for name in inside)
    weights = [name for name in top if _WEIGHTS.fullmatch(name)]
    fsdp = [folder for folder in inside if folder.startswith("pytorch_model_fsdp")]
    nested = [name for name in names - top if _NESTED.search(name)]
    if not weights and not fsdp and not nested and not deepspeed:
        yield "the weights (adapter_model.safetensors) are missing"
    elif "adapter_config.json" in top and not any(n.startswith("adapter_model.") for n in top):
        yield "adapter_model.safetensors is missing"
    folders = [""] if any(name.startswith("adapter_model.") for name in top) else []
    for folder in [*folders, *sorted(f"{name.rsplit('/', 1)[0]}/" for name in nested)]:
        if f"{folder}adapter_config.json" not in names:
            yield f"{folder}adapter_config.json is missing"
    for name in sorted(weights):
        if match := _SHARD.fullmatch(name):
            index = f"{match[1]}.{match[2]}.index.json"
            if index not in top:
                yield f"{index} is missing, which names the shards"
                break
    optimizers = [folder for folder in inside if folder.startswith("optimizer")]
    if not top & {"optimizer.pt", "optimizer.bin"} and not optimizers and not deepspeed:
        yield "optimizer.pt is missing: a resume would silently restart the optimizer"
    if "scheduler.pt" not in top and not deepspeed:
        yield "scheduler.pt is missing: a resume would restart the learning rate from 0"
    for folder in sorted(fsdp + optimizers):
        if f"{folder}/.metadata" not in names:
            yield f"{folder}/.metadata is missing"
    if deepspeed and "latest" not in top:
        yield "latest is missing: DeepSpeed would load nothing"
    if deepspeed and not any(name.endswith("_optim_states.pt") for name in names):
        yield "the optimizer's states (global_step*/*_optim_states.pt) are missing"
    if deepspeed and not any(name.endswith("model_states.pt") for name in names):
        yield "the weights (global_step*/*model_states.pt) are missing"
    yield from _missing_ranks(top, names)


def _missing_ranks(top: set[str], names: set[str]) -> Iterator[str]:
    """Each rank leaves its own random state, and with DeepSpeed its own optimizer states."""
    ranks = {int(match[1]) for name in top if (match := _RNG.fullmatch(name))}
    zero = {int(match[1]) for name in names if (match := _ZERO.fullmatch(name))}
    parts = {int(match[1]) for name in names if (match := _PART.fullmatch(name))}
    world = max(ranks | zero | parts, default=0) + 1
    if "rng_state.pth" not in top and not ranks:
        yield "rng_state.pth is missing"
    elif ranks and (lost := set(range(world)) - ranks):
        yield f"rng_state_{min(lost)}.pth is missing"
    states = sum(name.endswith("_optim_states.pt") for name in names)
    if zero and states < world:
        yield f"the optimizer's states of {states} ranks are there instead of {world}"


def _missing_shards(path: Path, index: str, stats: Mapping[str, Stat]) -> Iterator[str]:
    try:
        named = json.loads(read_bytes(path / index, _JSON_BYTES))["weight_map"].values()
        shards = sorted({str(shard) for shard in named})
    except OSError as error:
        yield unreadable(index, error)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        yield f"{index} names no shards"
    else:
        lost = [shard for shard in shards if shard not in stats]
        yield from (f"{shard} is missing, named by {index}" for shard in lost)


def _missing_parts(path: Path, metadata: str, stats: Mapping[str, Stat]) -> Iterator[str]:
    """The parts of a sharded state dict stand by name in its pickled `.metadata`."""
    folder = metadata.removesuffix(".metadata")
    try:
        text = read_bytes(path / metadata, STATE_BYTES)
    except OSError as error:
        yield unreadable(metadata, error)
        return
    parts = sorted({part.decode() for part in re.findall(rb"__\d+_\d+\.distcp", text)})
    if not parts or text[:1] != b"\x80" or text[-1:] != b".":  # a pickle's first and last
        yield f"{metadata} is {'cut off or damaged' if text else 'empty'}"
    for part in parts:
        if folder + part not in stats:
            yield f"{folder}{part} is missing, named by {metadata}"


def _missing_tag(path: Path, stats: Mapping[str, Stat]) -> Iterator[str]:
    try:
        tag = read_bytes(path / "latest").decode(errors="replace").strip()
    except OSError as error:
        yield unreadable("latest", error)
        return
    if not tag or not any(name.startswith(f"{tag}/") for name in stats):
        yield f"latest names {tag or 'nothing'!r}, which is not there"


def _file_fault(file: Path, name: str, *, whole: bool) -> str:
    """What is wrong with one file by its own structure; empty if nothing is."""
    try:
        size = file.stat().st_size
        if not os.path.isfile(file):
            return f"{name} is no regular file"
        if name.endswith((".pt", ".pth", ".bin")):
            return _archive_fault(file, name, size, whole=whole)
        if name.endswith(".safetensors"):
            read_header(file)
        with file.open("rb", buffering=0) as stream:
            if name.endswith(".distcp"):  # one `torch.save` after another
                if stream.read(4) != _ZIP or not _ends_as_zip(file):
                    return f"{name} is {'cut off or damaged' if size else 'empty'}"
            elif name.endswith(".json"):
                value = _json(stream, size, whole=whole)
                if name.endswith("adapter_config.json") and not isinstance(value, dict):
                    return f"{name} holds no settings"
            while whole and stream.read(_BLOCK):
                pass
    except HeaderError as error:
        return f"{name} {error}"
    except OSError as error:
        return unreadable(name, error)
    except (ValueError, RecursionError):
        return f"{name} is {'not valid JSON' if size else 'empty'}"
    return ""


def _json(stream: BinaryIO, size: int, *, whole: bool) -> Any:
    """A document; of a long one that is not read whole, an empty one of its kind."""
    if size > _JSON_BYTES:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    if whole or size <= _SMALL:
        return json.loads(stream.read(size))
    begin = stream.read(64).lstrip()[:1]
    stream.seek(size - 64)
    return json.loads(begin + stream.read().rstrip()[-1:])


def _archive_fault(file: Path, name: str, size: int, *, whole: bool) -> str:
    """`torch.save` writes a zip whose members are stored as they are, with a CRC of each.

    One that says otherwise is not read: a member could unfold to any size.
    """
    with file.open("rb") as stream:
        if stream.read(4) != _ZIP:
            return f"{name} is {'not a torch archive' if size else 'empty'}"
        if not _ends_as_zip(file):
            return f"{name} is cut off or damaged"
        if _directory_bytes(stream, size) > _DIRECTORY_BYTES:
            return f"{name} is not a torch archive: its directory is too large"
        stream.seek(0)
        try:
            with zipfile.ZipFile(stream) as archive:
                members = archive.infolist()
                packed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
                if packed or sum(member.file_size for member in members) > size:
                    return f"{name} is not a torch archive: it holds more than its size"
                if whole and (bad := archive.testzip()):
                    return f"{name} is damaged at {bad}"
                if not any(member.endswith("data.pkl") for member in archive.namelist()):
                    return f"{name} is not a torch archive"
        except OSError:
            raise
        except Exception:  # zipfile meets damage with BadZipFile, RuntimeError, zlib.error, ...
            return f"{name} is cut off or damaged"
    return ""


def _directory_bytes(stream: BinaryIO, size: int) -> int:
    """The size of a zip's directory as its end record says, or the larger zip64 record."""
    stream.seek(max(0, size - 98))
    end = stream.read(98).rjust(98, b"\0")
    if end[56:60] == b"PK\x06\x07" and end[:4] == b"PK\x06\x06":
        return int.from_bytes(end[40:48], "little")
    return int.from_bytes(end[88:92], "little")


def _ends_as_zip(file: Path) -> bool:
    """Whether the end record of a zip is the last thing in a file."""
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - 22))
        end = stream.read()
    return len(end) == 22 and end.startswith(b"PK\x05\x06") and end.endswith(b"\0\0")
