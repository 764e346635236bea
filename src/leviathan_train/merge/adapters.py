"""Adapters that can be merged: which one is meant, is it whole, and on which base does it belong.

Nothing here imports torch: of a safetensors file the header is read, and samples.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from leviathan_train.checkpoints import store as checkpoints
from leviathan_train.checkpoints.final import finished_at
from leviathan_train.checkpoints.seal import Facts, Seal, digest
from leviathan_train.checkpoints.store import Checkpoint
from leviathan_train.config import load as configs
from leviathan_train.config.load import Config
from leviathan_train.errors import LeviathanError, UsageError
from leviathan_train.run.folder import Run
from leviathan_train.system.files import read_json

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
"""Before the name of each tensor in an adapter (peft)."""

_SAMPLE = 1 << 16


@dataclass(frozen=True)
class Adapter:
    """An adapter in a folder.

    Attributes:
        label: what the user calls it, e.g. `checkpoint-1501`.
        run: the run that made it.
        facts: what training had reached with it, as far as is known.
        seal: the seal of its checkpoint or, of a final adapter, of its run's newest.
        sha256: of its weights; empty if they are not there.
    """

    path: Path
    label: str
    run: Run
    facts: Facts | None
    seal: Seal | None
    sha256: str


def choose(run: Run, choice: str) -> Adapter:
    """The adapter meant by `final`, `latest`, `best`, a step, or a folder.

    Raises:
        UsageError: there is none such; of an unfinished run, with what there is instead.
        LeviathanError: it is there, but not intact.
    """
    found = checkpoints.scan(run)
    if choice in {"final", "checkpoint-final"}:
        return _final(run, found)
    path = Path(choice)
    if (path / "adapter_config.json").is_file() and checkpoints.step_of(
        path.resolve().name
    ) is None:
        run = owner(path)
        adapter = _adapter(path, path.resolve().name, run, None, checkpoints.scan(run))
    else:
        checkpoint = checkpoints.select(run, choice, found)
        run = Run(checkpoint.path.parent)
        if not checkpoint.intact:
            raise _damaged(run, checkpoint.name, checkpoint.reason)
        adapter = _adapter(checkpoint.path, checkpoint.name, run, checkpoint, found)
    return _whole(adapter)


def owner(path: Path) -> Run:
    """The run that the folder of an adapter belongs to."""
    is_run = (path / ".leviathan").is_dir() or any(path.glob("checkpoint-*"))
    return Run(path if is_run else path.absolute().parent)


def _final(run: Run, found: list[Checkpoint]) -> Adapter:
    step = finished_at(run, found)
    if step is None or run.live_session():
        raise _unfinished(run, found)
    for path in (run.final, run.path):
        if (path / "adapter_config.json").is_file():
            adapter = _adapter(path, "the final adapter", run, None, found)
            return _whole(replace(adapter, facts=adapter.facts or _facts_at_end(run, step)))
    if weight_files(run.path):
        raise UsageError(
            f"{run.name} trained all weights: there is no adapter to merge.",
            f"The model is in {run.path}.",
        )
    raise UsageError(
        f"{run.name} finished at step {step}, but its final adapter is gone. {_there_is(found)}",
        f"Merge a checkpoint:  {_commands(run, found)}",
    )


def _unfinished(run: Run, found: list[Checkpoint]) -> UsageError:
    session, newest = run.live_session() or run.session(), checkpoints.latest(found)
    end, status = (session.end, session.status) if session else (None, None)
    step = status.step if status and status.step else newest.step if newest else 0
    most = (status and status.max_steps) or (newest and newest.facts.max_steps)
    state = "it is training" if session and not end else f"it {end.kind if end else 'ended'}"
    where = f" at step {step}{f' of {most}' if most else ''}" if step else ""
    if session is None and newest is None and not (run.path / WEIGHTS).is_file():
        return UsageError(
            f"{run.name} has not been trained: there is nothing in {run.path}.",
            "Train it first:  leviathan train CONFIG",
        )
    config = config_of(run)
    hint = f"Train it first:  leviathan train {config.path if config else 'CONFIG'}"
    if newest:
        hint = f"Merge a checkpoint of it:  {_commands(run, found)}"
    elif (run.path / WEIGHTS).is_file():
        hint = f"Merge the adapter that lies there:  --checkpoint {run.path}"
    return UsageError(f"{run.name} is not finished: {state}{where}. {_there_is(found)}", hint)


def _there_is(found: list[Checkpoint]) -> str:
    newest, best = checkpoints.latest(found), checkpoints.best(found)
    if newest is None:
        return "It has no intact checkpoint."
    if best is None:
        return f"There is {newest.name} (latest)."
    loss = best.facts.eval_loss
    told = "best" if loss is None else f"best, eval loss {loss:.4g}"
    return f"There is {newest.name} (latest) and {best.name} ({told})."


def _commands(run: Run, found: list[Checkpoint]) -> str:
    words = ["latest"] + (["best"] if checkpoints.best(found) else [])
    if checkpoints.latest(found) is None:
        words = ["STEP"]
    return "    ".join(f"leviathan merge {run.name} --checkpoint {word}" for word in words)


def _damaged(run: Run, name: str, reason: str) -> LeviathanError:
    found = checkpoints.scan(run)
    return LeviathanError(
        f"{name} is not intact: {reason}.", f"Merge another:  {_commands(run, found)}"
    )


def _adapter(
    path: Path, label: str, run: Run, checkpoint: Checkpoint | None, found: list[Checkpoint]
) -> Adapter:
    """The adapter in `path`; a copy of a sealed checkpoint's is known by its hash."""
    sha = ""
    with contextlib.suppress(OSError):
        sha = digest(path / WEIGHTS)
    sealed = [item for item in reversed(found) if item.seal]
    twins = (
        item for item in sealed if item.seal and (item.seal.files.get(WEIGHTS) or "x")[-1] == sha
    )
    checkpoint = checkpoint or next(twins, None)
    facts = checkpoint.facts if checkpoint else None
    seal = checkpoint.seal if checkpoint else sealed[0].seal if sealed else None
    return Adapter(path, label, run, facts, seal, sha)


def _facts_at_end(run: Run, step: int) -> Facts:
    session = run.session()
    status = session.status if session else None
    if status is None or status.step != step:
        return Facts(step)
    return Facts(step, status.epoch, status.loss, status.eval_loss, status.learning_rate)


def _whole(adapter: Adapter) -> Adapter:
    """The adapter, if its files are sound by themselves.

    Raises:
        LeviathanError: they are not.
    """
    config, reason = read_json(adapter.path / "adapter_config.json"), ""
    if not isinstance(config, dict):
        reason = "adapter_config.json is missing or damaged"
    elif config.get("peft_type") != "LORA":
        reason = f"it is of type {config.get('peft_type')}, and only LoRA and its kin can be merged"
    else:
        try:
            read_header(adapter.path / WEIGHTS)
        except FileNotFoundError:
            reason = f"{WEIGHTS} is missing"
        except (OSError, ValueError) as error:
            reason = f"{WEIGHTS} is damaged: {error}"
    if reason:
        raise _damaged(adapter.run, adapter.label, reason)
    return adapter


def config_of(run: Run) -> Config | None:
    """The config that the run was last started with, as it is now; None if it is gone."""
    for session in reversed(run.sessions()):
        launch = session.launch
        if name := launch.get("config"):
            with contextlib.suppress(LeviathanError):
                return configs.load(Path(launch.get("cwd") or ".") / str(name))
    return None


def find_base(name: str, run: Run, revision: str | None = None) -> Path:
    """The folder of a base model; one of the hub that is not in the cache is fetched.

    A relative path starts from the working directory, or from where the run was started.

    Raises:
        UsageError: there is none, or it is not one that can be merged into.
    """
    if not configs.is_local(name):
        return _sound(_from_hub(name, revision))
    session = run.session()
    started_in = Path(session.launch.get("cwd") or ".") if session else Path()
    for folder in (Path(name).expanduser(), started_in / name):
        if (folder / "config.json").is_file():
            return _sound(folder)
    raise UsageError(
        f"The base model {name} does not exist (no {Path(name) / 'config.json'}).",
        "Put it there, or name a config whose base_model is right:  leviathan merge CONFIG",
    )


def _from_hub(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    unused = ["*.bin", "*.gguf", "*.pth", "original/*", "consolidated*"]
    try:
        with contextlib.suppress(LocalEntryNotFoundError):
            path = Path(snapshot_download(name, revision=revision, local_files_only=True))
            if not _missing_weights(path):
                return path
        return Path(snapshot_download(name, revision=revision, ignore_patterns=unused))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise UsageError(
            f"The base model {name} is neither a folder nor to be had from the hub:"
            f" {str(error).strip().splitlines()[0]}",
            "Name the model's folder as base_model in a config:  leviathan merge CONFIG",
        ) from None


def _sound(base: Path) -> Path:
    if missing := _missing_weights(base):
        raise UsageError(
            f"The base model in {base} is not whole: {missing} is missing.", "Fetch it again."
        )
    config = read_json(base / "config.json")
    quantisation = config.get("quantization_config") if isinstance(config, dict) else None
    if quantisation:
        raise UsageError(
            f"The base model in {base} is stored quantised ({quantisation.get('quant_method')}):"
            " no adapter can be added to it exactly.",
            "Name the unquantised model as base_model in a config:  leviathan merge CONFIG",
        )
    return base


def weight_files(folder: Path) -> list[Path]:
    """The files of a model's weights."""
    return sorted(folder.glob("model*.safetensors"))


def _missing_weights(folder: Path) -> str:
    for index in folder.glob("model*.index.json"):
        for name in sorted(set(((read_json(index) or {}).get("weight_map") or {}).values())):
            if not (folder / name).exists():
                return str(name)
    return "" if weight_files(folder) else "model.safetensors"


def check_belongs(adapter: Adapter, base: Path, base_name: str) -> None:
    """Check that the adapter was trained on this base model.

    By the names and shapes of its tensors; by what the seal tells of the base; and, if both
    models are here, by samples of their weights.

    Raises:
        UsageError: it was not, with what tells so.
    """
    trained = base_of(adapter.path) or base_name
    hint = (
        f"It was trained on {trained}. Name that as base_model in a config:  leviathan merge CONFIG"
    )
    if why := _misfit(adapter.path, base):
        raise UsageError(f"{adapter.label} does not fit the base model {base_name}: {why}.", hint)
    inputs = adapter.seal.trainer.get("inputs") if adapter.seal else None
    config = ((inputs or {}).get("base") or {}).get("config")
    if config and config != digest(base / "config.json"):
        raise UsageError(
            f"{base_name} is not the model that {adapter.label} was trained on: its config.json"
            " is another.",
            hint,
        )
    if trained == base_name or not configs.is_local(trained):
        return
    try:
        other = find_base(trained, adapter.run)
    except UsageError:
        return  # moved away, or never here: what can be compared was
    if fingerprint(other) != fingerprint(base):
        raise UsageError(
            f"{adapter.label} was trained on {trained}, whose weights are not those of"
            f" {base_name}.",
            hint,
        )


def fingerprint(folder: Path) -> list[tuple[int, str]]:
    """Size in bytes and a hash of samples of each weight file: milliseconds at any size."""
    prints = []
    for file in weight_files(folder):
        sha, size = hashlib.sha256(), file.stat().st_size
        with file.open("rb") as stream:
            for part in range(16):
                stream.seek(max(0, size - _SAMPLE) * part // 15)
                sha.update(stream.read(_SAMPLE))
        prints.append((size, sha.hexdigest()))
    return prints


def read_header(file: Path) -> dict[str, Any]:
    """The header of a safetensors file: name to dtype, shape and data_offsets.

    Raises:
        ValueError: it is cut off, or no safetensors file.
        OSError: it cannot be read.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > size - 8:
            raise ValueError("it is empty or cut off")
        try:
            header = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            end = max(entry["data_offsets"][1] for entry in header.values())
            shapes = [list(entry["shape"]) for entry in header.values()]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            raise ValueError("its header is damaged") from None
    if size != 8 + length + end or not shapes:
        raise ValueError(f"it has {size} bytes instead of {8 + length + end}")
    found: dict[str, Any] = header
    return found


def shapes_of(folder: Path) -> dict[str, list[int]]:
    """Shape of each tensor of a model, from the headers of its files.

    Raises:
        UsageError: a file is damaged.
    """
    shapes: dict[str, list[int]] = {}
    for file in weight_files(folder):
        try:
            shapes |= {name: entry["shape"] for name, entry in read_header(file).items()}
        except ValueError as error:
            raise UsageError(f"{file} is damaged: {error}.", "Fetch the model again.") from None
    return shapes


def _misfit(adapter: Path, base: Path) -> str:
    """The first layer of an adapter that the base lacks or has in another shape; else empty."""
    shapes, header = shapes_of(base), read_header(adapter / WEIGHTS)
    layers = [
        name.removeprefix(PREFIX).removesuffix(".lora_A.weight")
        for name in header
        if name.endswith(".lora_A.weight")
    ]
    known = [layer for layer in layers if f"{layer}.weight" in shapes]
    numbered = [layer for layer in layers if re.search(r"\.\d+\.", layer)]
    strangers = [layer for layer in numbered if f"{layer}.weight" not in shapes]
    if known and strangers:  # if all are: some models name their layers otherwise in memory
        return f"it has no {strangers[0]}"
    for layer in known:
        wanted = _adapted_shape(header, layer)
        weight = shapes[f"{layer}.weight"]
        if wanted and len(weight) == 2 and weight not in (wanted, wanted[::-1]):
            return f"{layer} is {weight} in the base and {wanted} in the adapter"
    return ""


def _adapted_shape(header: Mapping[str, Any], layer: str) -> list[int] | None:
    a, b = (header.get(f"{PREFIX}{layer}.lora_{part}.weight") for part in "AB")
    if a is None or b is None or len(a["shape"]) != 2:
        return None
    return [b["shape"][0], a["shape"][1]]


def base_of(path: Path) -> str | None:
    """The base model that an adapter folder names."""
    value = read_json(path / "adapter_config.json")
    name = value.get("base_model_name_or_path") if isinstance(value, dict) else None
    return str(name) if name else None
