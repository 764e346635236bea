"""The keys of a config that Axolotl does not know, and would drop without a word.

What Axolotl knows lies in `axolotl_keys.json`, made from its schema by
`scripts/generate_keys.py`: importing the schema itself takes seconds.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from leviathan_train.config.load import PLUGIN, Config, nearest

OURS = frozenset({"leviathan_save_minutes", "leviathan_keep_best", "leviathan_keep_every"})

# What other trainers call it; the spelling alone would suggest something else.
_FOREIGN = {
    "batch_size_per_device": "micro_batch_size",
    "cutoff_len": "sequence_len",
    "epochs": "num_epochs",
    "grad_accum": "gradient_accumulation_steps",
    "lora_rank": "lora_r",
    "lora_target": "lora_target_modules",
    "lr": "learning_rate",
    "lr_scheduler_type": "lr_scheduler",
    "max_length": "sequence_len",
    "max_seq_len": "sequence_len",
    "max_seq_length": "sequence_len",
    "model": "base_model",
    "model_name": "base_model",
    "model_name_or_path": "base_model",
    "num_train_epochs": "num_epochs",
    "optim": "optimizer",
    "packing": "sample_packing",
    "per_device_eval_batch_size": "eval_batch_size",
    "per_device_train_batch_size": "micro_batch_size",
    "rank": "lora_r",
    "target_modules": "lora_target_modules",
    "train_on_split": "split",
}

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True)
class Unknown:
    """A key that Axolotl drops.

    Attributes:
        path: the key with its parents, e.g. `datasets[0].pathh`.
        where: the file with the line, or `--set`.
        nearest: the known name that was probably meant, with its parents.
        line: where it stands in the file, from 1; None for one given by `--set`.
        plugin: the plugin of Axolotl that knows the key and is not named in the config.
        maybe_of_plugin: a plugin of others is named, and the key may be one of its own.
    """

    path: str
    where: str
    nearest: str | None
    line: int | None
    plugin: str | None = None
    maybe_of_plugin: bool = False

    @property
    def message(self) -> str:
        """What is wrong and where, in one line."""
        if self.plugin:
            why = "would be dropped: the plugin that knows it is not named"
        elif self.maybe_of_plugin:
            why = "is unknown to Axolotl, unless one of the plugins brings it"
        else:
            why = "is unknown to Axolotl, which drops it without a word"
        return f"{self.where}: key {self.path} {why}."

    @property
    def hint(self) -> str:
        """What to do about it, in one line."""
        if self.plugin:
            return f"Add to plugins:  {self.plugin}"
        return f"Did you mean {self.nearest}?" if self.nearest else "Correct it, or take it out."


def unknown_keys(config: Config) -> list[Unknown]:
    """Every key that Axolotl would drop, in the file's order, then those given by `--set`.

    Takes some milliseconds; Axolotl is not imported.
    """
    core, bundled = _known()
    named = {_folder(name) for name in config.plugins}
    strangers = bool(named - set(bundled) - {_folder(PLUGIN)})
    known = core.union(OURS, *(bundled[folder].keys for folder in named & set(bundled)))
    dropped = list(_dropped(config.values, _tree(known), ()))
    lines = dict(_marks(config.path)) if dropped else {}
    found = []
    for path in dropped:
        top = len(path) == 1
        owner = next((other.name for other in bundled.values() if path[0] in other.keys), None)
        given = _is_override(config, path)
        line = None if given else lines.get(path)
        found.append(
            Unknown(
                path=_shown(path),
                where="--set" if given else f"{config.path}" + (f", line {line}" if line else ""),
                nearest=None if top and owner else _meant(path, known),
                line=line,
                plugin=owner if top else None,
                maybe_of_plugin=top and owner is None and strangers,
            )
        )
    return sorted(found, key=lambda item: (item.line is None, item.line or 0))


def duplicate_keys(path: Path) -> list[tuple[str, int]]:
    """Keys that a YAML file gives more than once, with the line of the last: only that counts."""
    seen: set[KeyPath] = set()
    found = []
    for key, line in _marks(path):
        if key in seen:
            found.append((_shown(key), line))
        seen.add(key)
    return found


@dataclass(frozen=True)
class _Bundled:
    """A plugin that comes with Axolotl: its full name, and the keys it adds."""

    name: str
    keys: frozenset[str]


@functools.cache
def _known() -> tuple[frozenset[str], dict[str, _Bundled]]:
    """The core's paths, and each bundled plugin by its folder."""
    file = resources.files("leviathan_train.config").joinpath("axolotl_keys.json")
    text = file.read_text("utf-8")
    document = json.loads(text)
    plugins = {
        folder: _Bundled(entry["name"], frozenset(entry["keys"]))
        for folder, entry in document["plugins"].items()
    }
    return frozenset(document["keys"]), plugins


def _folder(plugin: str) -> str:
    """The folder below axolotl.integrations of a plugin; for one of others its whole name.

    Axolotl also takes `liger.LigerPlugin` (axolotl 0.19, integrations/base.py, `load_plugin`).
    """
    first = plugin.removeprefix("axolotl.integrations.").split(".")[0]
    return first if first in _known()[1] else plugin


@functools.cache
def _tree(paths: frozenset[str]) -> dict[str, Any]:
    """Nested names of the paths; `*` where any key may stand. `[]` is not kept apart."""
    tree: dict[str, Any] = {}
    for path in paths:
        node = tree
        for part in path.replace("[]", "").split("."):
            node = node.setdefault(part, {})
    return tree


def _dropped(value: Any, tree: Mapping[str, Any], path: KeyPath) -> Iterator[KeyPath]:
    """The paths in `value` that `tree` lacks; nothing below an unknown key is looked at."""
    if isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _dropped(item, tree, (*path, index))
    if not isinstance(value, Mapping) or "*" in tree:
        return
    for key, item in value.items():
        node = tree.get(str(key))
        if node is None:
            yield (*path, str(key))
        elif node:
            yield from _dropped(item, node, (*path, str(key)))


def _meant(path: KeyPath, known: Iterable[str]) -> str | None:
    """The known key that an unknown one was probably meant to be, as it would be written."""
    name = str(path[-1])
    shown = _shown(path)
    parent = shown[: -len(name)]
    family = ".".join(str(part) for part in path[:-1] if isinstance(part, str))
    siblings = set()
    elsewhere = []
    for key in known:
        above, _, last = key.replace("[]", "").rpartition(".")
        if last == "*":
            continue
        if above == family:
            siblings.add(last)
        elif last == name:
            elsewhere.append(key)
    if _FOREIGN.get(name) in siblings:
        return parent + _FOREIGN[name]
    close = nearest(name, sorted(siblings))
    if close:
        return parent + close
    return min(elsewhere, key=lambda key: (len(key), key), default=None)


def _is_override(config: Config, path: KeyPath) -> bool:
    """Whether `--set` gave the key, itself or by one of its parents."""
    names = [str(part) for part in path]
    return any(
        names[: len(parts)] == parts for key in config.overrides if (parts := key.split("."))
    )


def _shown(path: KeyPath) -> str:
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


def _marks(path: Path) -> list[tuple[KeyPath, int]]:
    """Path and line (from 1) of each key in a YAML file; none if it cannot be read."""
    import yaml

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return []
    found: list[tuple[KeyPath, int]] = []

    def walk(node: Any, above: KeyPath) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                here = (*above, str(key.value))
                found.append((here, key.start_mark.line + 1))
                walk(value, here)
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                walk(value, (*above, index))

    if root is not None:
        walk(root, ())
    return found
