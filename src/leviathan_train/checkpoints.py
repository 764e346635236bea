"""Checkpoints: find, seal, verify, and tell what is in them.

A checkpoint is *sealed* by `leviathan.json`, written last, which names every other file
with its size and SHA-256. Nothing here unpickles or imports torch.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from leviathan_train.errors import UsageError
from leviathan_train.files import folder_bytes, read_json, sync_file, sync_folder, write_json
from leviathan_train.run import Run

SEAL = "leviathan.json"
SEAL_VERSION = 1
_NAME = re.compile(r"checkpoint-(\d+)$")
_BLOCK = 1 << 20

State = Literal["intact", "unsealed", "damaged"]
"""`unsealed`: intact by structure, made without the plugin."""


@dataclass(frozen=True)
class Facts:
    """What training had reached at a checkpoint. Steps, epochs, seconds since the epoch."""

    step: int
    epoch: float | None = None
    loss: float | None = None
    eval_loss: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    max_steps: int | None = None
    best_step: int | None = None
    best_metric: float | None = None
    metric: str | None = None


@dataclass(frozen=True)
class Seal:
    """The content of `leviathan.json`.

    Attributes:
        facts: step, losses, learning rate, best so far.
        time: when it was sealed, seconds since the epoch.
        seconds_trained: seconds of training that led here, over all sessions.
        world_size: number of ranks.
        versions: of leviathan-train and the libraries that made the checkpoint.
        config: the settings, secrets left out, that a resume is compared with.
        trainer: sums that transformers does not keep; see `plugin`.
        files: relative path to size in bytes and SHA-256.
    """

    facts: Facts
    time: float
    seconds_trained: float
    world_size: int
    versions: Mapping[str, str]
    config: Mapping[str, Any]
    trainer: Mapping[str, Any]
    files: Mapping[str, tuple[int, str]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        value = asdict(self)
        files = {name: {"bytes": size, "sha256": sha} for name, (size, sha) in self.files.items()}
        return {"seal": SEAL_VERSION} | value | {"files": files}

    @classmethod
    def from_json(cls, value: Any) -> Seal | None:
        """The seal a document holds, or None if it is no seal."""
        try:
            files = {
                str(name): (int(entry["bytes"]), str(entry["sha256"]))
                for name, entry in value["files"].items()
            }
            return cls(
                Facts(**value["facts"]),
                float(value["time"]),
                float(value["seconds_trained"]),
                int(value["world_size"]),
                value["versions"],
                value["config"],
                value["trainer"],
                files,
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            return None


@dataclass(frozen=True)
class Checkpoint:
    """One `checkpoint-<step>/` and what is known of it.

    Attributes:
        state: whether a resume may trust it.
        reason: why it is damaged, naming the file; empty otherwise.
    """

    path: Path
    step: int
    facts: Facts
    state: State
    reason: str
    bytes: int
    modified: float
    seal: Seal | None = None

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def intact(self) -> bool:
        """Whether a resume may go on from it."""
        return self.state != "damaged"


def folders(run: Run) -> list[tuple[int, Path]]:
    """Step and path of each checkpoint folder of a run, by step; links and files are none."""
    found = []
    try:
        entries = list(os.scandir(run.path))
    except OSError:
        return []
    for entry in entries:
        match = _NAME.match(entry.name)
        if match and entry.is_dir(follow_symlinks=False):
            found.append((int(match[1]), run.path / entry.name))
    return sorted(found)


def scan(run: Run, *, always_read: bool = False, step: int | None = None) -> list[Checkpoint]:
    """Look at every checkpoint of a run, or at that of one step, oldest first.

    Args:
        always_read: compare every byte, even of what was verified before.
    """
    saves = run.saves()
    return [
        inspect(run, path, saves=saves, always_read=always_read)
        for number, path in folders(run)
        if step is None or number == step
    ]


def inspect(
    run: Run, path: Path, *, saves: set[str] | None = None, always_read: bool = False
) -> Checkpoint:
    """Say what a checkpoint folder holds and whether it is intact.

    A checkpoint that was verified before is trusted while size, mtime, ctime and inode of
    each of its files are the same, unless `always_read`.
    """
    match = _NAME.match(path.name)
    number = int(match[1]) if match else -1
    stats = file_stats(path)
    size = sum(entry[0] for entry in stats.values())
    modified = max((entry[1] for entry in stats.values()), default=0) / 1e9
    index = run.verified / f"{path.name}.json"
    ours = path.parent.resolve() == run.path.resolve()
    known = read_json(index) if ours and not always_read else None
    seal = Seal.from_json(read_json(path / SEAL)) if SEAL in stats else None
    if isinstance(known, dict) and known.get("files") == {k: list(v) for k, v in stats.items()}:
        facts = seal.facts if seal else Facts(**known["facts"])
        return Checkpoint(path, number, facts, known["state"], "", size, modified, seal)
    saves = run.saves() if saves is None else saves
    reason, facts = _judge(path, number, seal, stats, interrupted=ours and path.name in saves)
    state: State = "damaged" if reason else "intact" if seal else "unsealed"
    if state != "damaged" and ours:
        remember(run, path, state, facts)
    return Checkpoint(path, number, facts, state, reason, size, modified, seal)


def remember(run: Run, path: Path, state: State, facts: Facts) -> None:
    """Note that `path` was verified as it now lies on disk; a read-only run is passed over."""
    record = {"state": state, "facts": asdict(facts), "files": file_stats(path)}
    try:
        write_json(run.verified / f"{path.name}.json", record)
    except OSError:
        return


def _judge(
    path: Path,
    number: int,
    seal: Seal | None,
    stats: Mapping[str, tuple[int, int, int, int]],
    *,
    interrupted: bool,
) -> tuple[str, Facts]:
    """Why the checkpoint is damaged (empty if it is not), and its facts."""
    facts = Facts(number)
    if SEAL in stats and seal is None:
        return f"{SEAL} is not readable as a seal", facts
    if seal is not None:
        if seal.facts.step != number:
            return f"{SEAL} is of step {seal.facts.step}", seal.facts
        return next(compare(path, seal), ""), seal.facts
    try:
        facts = read_facts(path, number)
    except FaultError as fault:
        return str(fault), facts
    if interrupted:
        return f"{SEAL} is missing: its save was interrupted", facts
    return next(structure_faults(path, stats), ""), facts


def compare(path: Path, seal: Seal) -> Iterator[str]:
    """What differs between a checkpoint's files and its seal, one line each."""
    for name, (size, sha) in seal.files.items():
        file = path / name
        try:
            found = file.stat().st_size
            if found != size:
                yield f"{name} has {found} bytes instead of {size}"
            elif digest(file) != sha:
                yield f"{name} has changed (SHA-256 differs)"
        except OSError as error:
            yield _unreadable(name, error)
    extra = sorted(set(file_stats(path)) - set(seal.files) - {SEAL})
    if extra:
        yield f"{extra[0]} was added after the save"


def digest(path: Path) -> str:
    """SHA-256 of a file, read in large blocks so that other threads can go on."""
    sha = hashlib.sha256()
    with path.open("rb", buffering=0) as stream:
        while block := stream.read(_BLOCK):
            sha.update(block)
    return sha.hexdigest()


def write_seal(run: Run, path: Path, seal: Seal) -> Seal:
    """Make a checkpoint durable, then seal it.

    Every file and folder is fsynced before the seal is written under a temporary name and
    renamed. The seal's `files` are filled in here.

    Raises:
        OSError: the disk refused; the checkpoint stays unsealed.
    """
    files: dict[str, tuple[int, str]] = {}
    for folder, _, names in os.walk(path):
        for name in sorted(names):
            file = Path(folder) / name
            relative = file.relative_to(path).as_posix()
            if relative == SEAL or _is_temporary(name):
                continue
            sync_file(file)
            files[relative] = (file.stat().st_size, digest(file))
        sync_folder(Path(folder))
    sync_folder(path.parent)
    seal = replace(seal, files=files)
    write_json(path / SEAL, seal.to_json(), durable=True)
    remember(run, path, "intact", seal.facts)
    return seal


def unseal(path: Path) -> None:
    """Take the seal off before a checkpoint is written again."""
    (path / SEAL).unlink(missing_ok=True)
    if path.is_dir():
        sync_folder(path)


def is_sealed(path: Path) -> bool:
    """Whether a seal is there; what it says is not compared."""
    return (path / SEAL).is_file()


class FaultError(Exception):
    """A fault in a checkpoint's file, told in words that name the file."""


def read_state(path: Path) -> dict[str, Any]:
    """`trainer_state.json` of a checkpoint.

    Raises:
        FaultError: it is missing, unreadable, or no trainer state.
    """
    name = "trainer_state.json"
    try:
        value = json.loads((path / name).read_bytes())
    except OSError as error:
        raise FaultError(_unreadable(name, error)) from None
    except ValueError:
        raise FaultError(f"{name} is not valid JSON") from None
    if not isinstance(value, dict) or not isinstance(value.get("global_step"), int):
        raise FaultError(f"{name} names no global_step")
    return value


def read_facts(path: Path, number: int) -> Facts:
    """The facts of a checkpoint from its `trainer_state.json`.

    Raises:
        FaultError: the file is missing, broken, or of another step than the folder's number.
    """
    state = read_state(path)
    if state["global_step"] != number:
        raise FaultError(f"trainer_state.json is of step {state['global_step']}")
    return facts_of(state)


def facts_of(state: Mapping[str, Any]) -> Facts:
    """The facts that a trainer's state (as a mapping) holds."""
    history = [entry for entry in state.get("log_history") or [] if isinstance(entry, dict)]

    def last(key: str) -> Any:
        return next((entry[key] for entry in reversed(history) if key in entry), None)

    return Facts(
        step=state["global_step"],
        epoch=state.get("epoch"),
        loss=last("loss"),
        eval_loss=last("eval_loss"),
        learning_rate=last("learning_rate"),
        grad_norm=last("grad_norm"),
        max_steps=state.get("max_steps"),
        best_step=state.get("best_global_step"),
        best_metric=state.get("best_metric"),
    )


def structure_faults(
    path: Path, stats: Mapping[str, tuple[int, int, int, int]]
) -> Iterator[str]:
    """What a resume would miss or find broken in a checkpoint without a seal."""
    names = set(stats)
    top = {name for name in names if "/" not in name}
    in_folders = {name.split("/")[0] for name in names if "/" in name}
    deepspeed = any(re.match(r"global_step\d+$", folder) for folder in in_folders)
    weights = [
        name
        for name in top
        if re.match(r"(adapter_model|model|pytorch_model)[\w.-]*\.(safetensors|bin)$", name)
    ]
    sharded = any(re.match(r"(pytorch_model_fsdp|model)_?\d*$", folder) for folder in in_folders)
    if not weights and not sharded and not deepspeed:
        yield "the weights (adapter_model.safetensors) are missing"
    if any(name.startswith("adapter_model") for name in weights) and "adapter_config.json" not in top:
        yield "adapter_config.json is missing"
    optimizer = any(name.startswith(("optimizer.pt", "optimizer.bin")) for name in top)
    if not optimizer and not deepspeed and not any(f.startswith("optimizer") for f in in_folders):
        yield "optimizer.pt is missing: a resume would silently restart the optimizer"
    if "scheduler.pt" not in top and not deepspeed:
        yield "scheduler.pt is missing: a resume would restart the learning rate from 0"
    ranks = {int(m[1]) for name in top if (m := re.match(r"rng_state_(\d+)\.pth$", name))}
    if "rng_state.pth" not in top and not ranks:
        yield "rng_state.pth is missing"
    if ranks and ranks != set(range(max(ranks) + 1)):
        missing = min(set(range(max(ranks) + 1)) - ranks)
        yield f"rng_state_{missing}.pth is missing"
    for name in sorted(names):
        if _is_temporary(name.split("/")[-1]):
            continue
        if fault := _file_fault(path / name, name):
            yield fault
        if name.endswith(".safetensors.index.json"):
            index = read_json(path / name)
            listed = index.get("weight_map", {}) if isinstance(index, dict) else {}
            for shard in sorted(set(listed.values()) - top):
                yield f"{shard} is missing, named by {name}"


def _file_fault(file: Path, name: str) -> str:
    """What is wrong with one file by its own structure; empty if nothing is."""
    try:
        size = file.stat().st_size
        if name.endswith(".safetensors"):
            return _safetensors_fault(file, name, size)
        if name.endswith((".pt", ".pth", ".bin")):
            with file.open("rb") as stream:
                if stream.read(4) != b"PK\x03\x04":
                    return f"{name} is {'empty' if size == 0 else 'not a torch archive'}"
            with zipfile.ZipFile(file) as archive:
                bad = archive.testzip()
                return f"{name} is damaged at {bad}" if bad else ""
        if name.endswith(".json"):
            json.loads(file.read_bytes())
        else:
            with file.open("rb") as stream:
                while stream.read(_BLOCK):
                    pass
    except OSError as error:
        return _unreadable(name, error)
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError):
        return f"{name} is {'empty' if size == 0 else 'cut off or damaged'}"
    return ""


def _safetensors_fault(file: Path, name: str, size: int) -> str:
    if size < 8:
        return f"{name} is {'empty' if size == 0 else 'cut off'}"
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > size - 8:
            return f"{name} is cut off or its header is damaged"
        header = json.loads(stream.read(length))
        while stream.read(_BLOCK):
            pass
    ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
    expected = 8 + length + max(ends, default=0)
    return "" if size == expected else f"{name} has {size} bytes instead of {expected}"


def _unreadable(name: str, error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return f"{name} is missing"
    return f"{name} cannot be read ({error.strerror})"


def _is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(".tmp")


def file_stats(path: Path) -> dict[str, tuple[int, int, int, int]]:
    """Size, mtime, ctime (ns) and inode of each file below `path`."""
    found = {}
    for folder, _, names in os.walk(path):
        for name in names:
            file = os.path.join(folder, name)
            try:
                stat = os.stat(file)
            except OSError:
                found[os.path.relpath(file, path)] = (0, 0, 0, 0)
                continue
            key = os.path.relpath(file, path)
            if not _is_temporary(name):
                found[key] = (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
    return found


def latest(checkpoints: list[Checkpoint]) -> Checkpoint | None:
    """The newest intact checkpoint."""
    return next((found for found in reversed(checkpoints) if found.intact), None)


def best(checkpoints: list[Checkpoint]) -> Checkpoint | None:
    """The intact checkpoint with the best metric: the config's own, else the eval loss.

    The checkpoint that transformers itself tracks as best comes first.
    """
    intact = [found for found in checkpoints if found.intact]
    tracked = next((f.facts.best_step for f in reversed(intact) if f.facts.best_step), None)
    for found in intact:
        if tracked is not None and found.step == tracked:
            return found
    judged = [found for found in intact if found.facts.eval_loss is not None]
    return min(judged, key=lambda found: (found.facts.eval_loss or 0.0, -found.step), default=None)


def select(run: Run, choice: str, checkpoints: list[Checkpoint]) -> Checkpoint:
    """The checkpoint meant by `latest`, `best`, a step, or a path, intact or not.

    Raises:
        UsageError: there is none such, with the reason.
    """
    if not checkpoints and choice in {"latest", "best"}:
        raise UsageError(
            f"{run.name} has no checkpoint yet.", "One is saved at each save_steps, and at a pause."
        )
    if choice == "latest":
        found = latest(checkpoints)
        if found is None:
            raise UsageError(
                f"{run.name} has no intact checkpoint: {checkpoints[-1].name}:"
                f" {checkpoints[-1].reason}.",
                f"See them all with:  leviathan checkpoints list {run.name}",
            )
        return found
    if choice == "best":
        found = best(checkpoints)
        if found is None:
            raise UsageError(
                f"{run.name} has no best checkpoint: why: no evaluation was logged, so there"
                " is no eval loss to judge by.",
                "Set val_set_size and eval_steps in the config, or name a step.",
            )
        return found
    number = choice.removeprefix("checkpoint-")
    if number.isdigit():
        for candidate in checkpoints:
            if candidate.step == int(number):
                return candidate
        steps = ", ".join(str(found.step) for found in checkpoints) or "none"
        raise UsageError(f"{run.name} has no checkpoint of step {number}.", f"It has: {steps}.")
    path = Path(choice)
    if path.is_dir() and _NAME.match(path.resolve().name):
        return inspect(Run(path.resolve().parent), path)
    raise UsageError(
        f"No checkpoint {choice!r}.", "Name latest, best, a step, or a folder checkpoint-<step>."
    )


def superseded_bytes(run: Run) -> int:
    """What the checkpoints set aside take, in bytes."""
    return folder_bytes(run.superseded)
