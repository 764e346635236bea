"""Settings with which a training would fail only after its model or its rows have been loaded.

Most were seen to fail on axolotl 0.19; a missing DeepSpeed file and a folder that cannot be
written to are plain enough.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from leviathan_train.config.base_model import is_local, model_folder
from leviathan_train.config.inputs import is_data_file
from leviathan_train.config.load import Config, entries, normalise
from leviathan_train.config.memory import linear_modules, modules
from leviathan_train.config.requirements import is_on
from leviathan_train.system.files import read_object

_LAYER = re.compile(r"\D*\.(\d+)\.")
_OTHER_SHAPE = "overrides_of_model_config"
_NEW_HEADS = ("reward_model", "process_reward_model")
_PATHS = (
    "base_model",
    "base_model_config",
    "tokenizer_config",
    "output_dir",
    "dataset_prepared_path",
    "lora_model_dir",
    "deepspeed",
    "resume_from_checkpoint",
)


@dataclass(frozen=True)
class Pitfall:
    """What would go wrong. `fails` tells whether the training would end."""

    message: str
    hint: str
    fails: bool = True


def pitfalls(config: Config) -> Iterator[Pitfall]:
    """What can be seen of a config and its base model without reading rows."""
    yield from _targets(config)
    yield from _saved_modules(config)
    yield from _layers(config)
    yield from _entries(config)
    yield from _paths(config)
    yield from _length(config)
    yield from _share(config)


def home_paths(config: Config) -> Iterator[Pitfall]:
    """Paths that begin with `~`, which only a shell makes into a home folder."""
    named = [(key, config.values.get(key)) for key in _PATHS]
    for key, index, entry in entries(config.values, "datasets", "test_datasets"):
        files = entry.get("data_files")
        named.append((f"{key}[{index}].path", entry.get("path")))
        for name in files if isinstance(files, list) else [files]:
            named.append((f"{key}[{index}].data_files", name))
    for key, name in named:
        if isinstance(name, str) and (meant := os.path.expanduser(name)) != name:
            yield Pitfall(
                f"{key}: {name}: Axolotl takes ~ for the name of a folder, not for your home.",
                f"Write  {meant}",
            )


def _targets(config: Config) -> Iterator[Pitfall]:
    """Names of `lora_target_modules` that the base model does not have."""
    named = config.values.get("lora_target_modules")
    if not isinstance(named, list) or is_on(config.values.get("lora_target_linear")):
        return
    linear = linear_modules(config)
    known = sorted({module.rpartition(".")[2] for module in linear})
    strange = [
        str(name)
        for name in named
        if not any(f".{module}".endswith(f".{name}") for module in linear)
    ]
    if not linear or not strange:
        return
    none = len(strange) == len(named)
    yield Pitfall(
        f"lora_target_modules: the base model has no {', '.join(strange)}.",
        f"It has:  {', '.join(known[:12])}",
        # Embedding and head are modules too, which are not looked at here.
        fails=none and not any(_may_be_tied(name) for name in strange),
    )


def _may_be_tied(name: str) -> bool:
    """Whether a module may be there without a tensor of its own in the file."""
    return "embed" in name or "head" in name


def _saved_modules(config: Config) -> Iterator[Pitfall]:
    """Names of `lora_modules_to_save` that peft passes over (utils/other.py, `_set_trainable`)."""
    named = config.values.get("lora_modules_to_save")
    if not isinstance(named, list) or not config.values.get("adapter"):
        return
    if any(config.values.get(key) for key in (*_NEW_HEADS, _OTHER_SHAPE)):
        return
    known = modules(config)
    strange = [
        name
        for name in map(str, named)
        if not _may_be_tied(name) and not any(module.endswith(name) for module in known)
    ]
    if known and strange:
        yield Pitfall(
            f"lora_modules_to_save: the base model has no {', '.join(strange)}: it is passed over.",
            f"It has:  {', '.join(sorted({one.rpartition('.')[2] for one in known})[:12])}",
            fails=False,
        )


def _layers(config: Config) -> Iterator[Pitfall]:
    """Numbers in `peft_layers_to_transform` that the base model does not have."""
    named = config.values.get("peft_layers_to_transform")
    if not isinstance(named, list) or not config.values.get("adapter"):
        return
    if any(config.values.get(key) for key in ("peft_layer_replication", _OTHER_SHAPE)):
        return  # it has other layers than its files
    found = (_LAYER.match(module) for module in modules(config))
    there = {int(match[1]) for match in found if match}
    numbers = [number for item in named if type(number := normalise(item)) is int]
    strange = [number for number in numbers if number not in there]
    if there and strange:
        yield Pitfall(
            "peft_layers_to_transform: the base model has no layer"
            f" {', '.join(map(str, strange))}; its last is {max(there)}.",
            f"Name layers from 0 to {max(there)}.",
            fails=len(strange) == len(named),  # else peft passes them over
        )


def _entries(config: Config) -> Iterator[Pitfall]:
    for name, index, entry in entries(config.values, "datasets"):
        key, split = f"{name}[{index}]", str(entry.get("split") or "train")
        path = Path(str(entry.get("path")))
        if is_data_file(str(path)) and path.is_file() and not split.startswith("train"):
            yield Pitfall(
                f"{key}: split: {split}: a file has no splits but train.",
                "Remove split, or name another file.",
            )
        shards = normalise(entry.get("shards"))
        part = normalise(entry.get("shards_idx") or 0)
        if isinstance(shards, int) and isinstance(part, int) and 0 < shards <= part:
            yield Pitfall(
                f"{key}: shards_idx: {part}: of {shards} shards the last is {shards - 1}.",
                f"Choose one from 0 to {shards - 1}.",
            )


def _paths(config: Config) -> Iterator[Pitfall]:
    values = config.values
    if config.prepared_path.is_file():
        yield Pitfall(
            f"dataset_prepared_path: {config.prepared_path} is a file.",
            "Name a folder for the tokenised rows.",
        )
    for key, path in (
        ("output_dir", config.output_dir),
        ("dataset_prepared_path", config.prepared_path),
    ):
        above = next((part for part in (path, *path.absolute().parents) if part.exists()), path)
        if above.is_dir() and not os.access(above, os.W_OK | os.X_OK):
            yield Pitfall(
                f"{key}: {path}: nothing can be written to {above}.",
                f"Choose another folder, or:  chmod u+w {above}",
            )
    for key in ("lora_model_dir", "deepspeed"):
        name = values.get(key)
        is_path = isinstance(name, str) and (is_local(name) or name.endswith(".json"))
        if is_path and not Path(str(name)).exists():
            yield Pitfall(f"{key}: {name} does not exist.", "Correct the path.")
        elif name and key == "deepspeed" and importlib.util.find_spec(key) is None:
            yield Pitfall(
                "deepspeed: its package is not installed.",
                "Install it:  pip install deepspeed    or use fsdp_config, which needs none.",
            )


def _length(config: Config) -> Iterator[Pitfall]:
    """Rows longer than what the base model has seen."""
    length = normalise(config.values.get("sequence_len"))
    folder = model_folder(str(config.values.get("base_model")))
    found = read_object(folder / "config.json") if folder else {}
    most = found.get("max_position_embeddings")
    stretched = ("rope_scaling", "rope_parameters", _OTHER_SHAPE)
    if any(config.values.get(key) for key in stretched):
        return
    if isinstance(length, int) and isinstance(most, int) and 0 < most < length:
        yield Pitfall(
            f"sequence_len: {length}: the base model was made for {most} tokens.",
            f"Lower it to {most} or less, or stretch the model's positions.",
            fails=False,
        )


def _share(config: Config) -> Iterator[Pitfall]:
    """A `val_set_size` that is neither a share nor a number of rows.

    Preference data take only a share (axolotl, utils/data/rl.py and sft.py).
    """
    size = normalise(config.values.get("val_set_size"))
    if not isinstance(size, int | float) or isinstance(size, bool) or size < 1:
        return
    hint = "Give a share below 1, such as 0.05, or a number of rows, such as 100."
    if config.values.get("rl"):
        hint = "Give a share below 1, such as 0.05."
        yield Pitfall(f"val_set_size: {size}: with rl Axolotl takes a share only.", hint)
    elif size == 1:
        yield Pitfall("val_set_size: 1: all rows would be held back, none trained on.", hint)
    elif not isinstance(size, int):
        yield Pitfall(
            f"val_set_size: {size}: above 1 it is a number of rows, so {int(size)} are held back.",
            hint,
            fails=False,
        )
