"""The keys and values of a config that Axolotl would drop silently or refuse."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from leviathan_train.config import schema as schemas
from leviathan_train.config.lines import KeyPath, Places, places, shown
from leviathan_train.config.load import PLUGIN, Config, nearest
from leviathan_train.config.schema import INTEGRATIONS, Node, Schema
from leviathan_train.config.values import wrong_values

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


class Kind(Enum):
    """What is wrong with a key."""

    UNKNOWN = "unknown"
    MAYBE_OF_PLUGIN = "maybe of a plugin"
    TWICE = "twice"
    VALUE = "value"
    PLUGIN = "plugin"


@dataclass(frozen=True)
class Problem:
    """A key that would not do what its writer means.

    Attributes:
        path: the key with its parents, e.g. `datasets[0].pathh`.
        line: where it stands in the file, from 1; None for one given by `--set`.
        message: what is wrong and where, in one line.
        hint: what to do about it, in one line.
        may_pass: the training can go on all the same, if its owner says so.
    """

    kind: Kind
    path: str
    line: int | None
    message: str
    hint: str
    may_pass: bool = True


def problems(config: Config, tell: Callable[[str], None] = lambda line: None) -> list[Problem]:
    """Everything that is wrong with the keys, in the file's order, then what `--set` gave.

    Takes some milliseconds once Axolotl has been asked what it knows (see `config/schema.py`).

    Args:
        tell: called with one line before some seconds are spent on asking.

    Raises:
        LeviathanError: Axolotl cannot be asked.
    """
    schema = schemas.ask(config.plugins, tell)
    at = places(config.path)
    found = [*_unknown(config, schema, at), *_twice(config, at), *_wrong(config, schema, at)]
    found += _plugins(config, schema, at)
    return sorted(found, key=lambda problem: (problem.line is None, problem.line or 0))


def _unknown(config: Config, schema: Schema, at: Places) -> Iterator[Problem]:
    """The keys that Axolotl would drop."""
    for path in _dropped(config.values, schema.keys):
        top = len(path) == 1
        owner = next((plugin.name for plugin in schema.others if path[0] in plugin.keys), None)
        meant = None if top and owner else _meant(path, schema.keys)
        kind, why = Kind.UNKNOWN, "is unknown to Axolotl, which drops it silently"
        hint = f"Did you mean {meant}?" if meant else "Correct it, or remove it."
        if top and owner:
            why = "would be dropped: the plugin that knows it is not named"
            hint = f"Add to plugins:  {owner}"
        elif top and not schema.knows_all:
            why = "is unknown to Axolotl, unless one of the plugins brings it"
            kind = Kind.MAYBE_OF_PLUGIN
        where, line = _place(config, at, path)
        message = f"{where}: key {shown(path)} {why}."
        yield Problem(kind, shown(path), line, message, hint)


def _twice(config: Config, at: Places) -> Iterator[Problem]:
    """The keys that the file gives more than once: only the last counts."""
    for path, lines in at.twice.items():
        numbers = f"{', '.join(map(str, lines[:-1]))} and {lines[-1]}"
        message = (
            f"{config.path}, lines {numbers}: key {shown(path)} is given more than once; only the"
            " last one counts."
        )
        yield Problem(Kind.TWICE, shown(path), lines[-1], message, "Remove all but one.")


def _plugins(config: Config, schema: Schema, at: Places) -> Iterator[Problem]:
    """The plugins that cannot be loaded: Axolotl ends, or trains without them."""
    for plugin, failure in schema.failed.items():
        where, line = _place(config, at, ("plugins", config.plugins.index(plugin)))
        message = f"{where}: plugins: {plugin} cannot be loaded: {failure.why}."
        known = {name.removeprefix(INTEGRATIONS): name for name in [*schema.bundled, PLUGIN]}
        close = nearest(plugin.removeprefix(INTEGRATIONS), known)
        hint = f"Did you mean {known[close]}?" if close else "Install it, or correct its name."
        yield Problem(Kind.PLUGIN, "plugins", line, message, hint, failure.is_import)


def _wrong(config: Config, schema: Schema, at: Places) -> Iterator[Problem]:
    """The values that would be refused."""
    for wrong in wrong_values(config.values, schema):
        where, line = _place(config, at, wrong.path)
        passes = not (wrong.is_certain and schema.is_complete)
        yield Problem(
            Kind.VALUE, shown(wrong.path), line, f"{where}: {wrong.text}.", wrong.hint, passes
        )


def _place(config: Config, at: Places, path: KeyPath) -> tuple[str, int | None]:
    """Where a key was given, and its line in the file."""
    names = [str(part) for part in path]
    for key in config.overrides:
        if names[: key.count(".") + 1] == key.split("."):
            return "--set", None
    line = at.line_of(path)
    return f"{config.path}" + (f", line {line}" if line else ""), line


def _dropped(values: Mapping[str, Any], keys: Mapping[str, Node]) -> Iterator[KeyPath]:
    """The paths that the schema lacks; nothing below an unknown key is looked at."""
    for key, value in values.items():
        if key in keys:
            yield from _dropped_below(value, [keys[key]], (key,))
        else:
            yield (key,)


def _dropped_below(value: Any, nodes: Sequence[Node], path: KeyPath) -> Iterator[KeyPath]:
    if isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _dropped_below(item, nodes, (*path, index))
    if not isinstance(value, Mapping):
        return
    known, free = _fields(nodes)
    if free or not known:  # without any keys of its own, it is a value of the wrong kind
        return
    for key, item in value.items():
        if str(key) in known:
            yield from _dropped_below(item, known[str(key)], (*path, str(key)))
        else:
            yield (*path, str(key))


def _fields(nodes: Sequence[Node]) -> tuple[dict[str, list[Node]], bool]:
    """Keys and freedom of several types together, as of the branches of a union."""
    return schemas.fields({"type": "union", "choices": nodes})


def _meant(path: KeyPath, keys: Mapping[str, Node]) -> str | None:
    """The known key that an unknown one was probably meant to be, as it would be written."""
    name = str(path[-1])
    siblings: Mapping[str, Any] = keys
    for part in path[:-1]:
        if isinstance(part, str):
            nodes = siblings[part]
            siblings = _fields(nodes if isinstance(nodes, list) else [nodes])[0]
    parent = shown(path)[: -len(name)]
    if _FOREIGN.get(name) in siblings:
        return parent + _FOREIGN[name]
    if close := nearest(name, sorted(siblings)):
        return parent + close
    elsewhere = [*([name] if name in keys else []), *_named_below(name, keys)]
    return min(elsewhere, key=lambda key: (len(key), key), default=None)


def _named_below(name: str, keys: Mapping[str, Node]) -> Iterator[str]:
    """Where else a key of this name may stand, one level down."""
    for key, node in keys.items():
        if name in schemas.fields(node)[0]:
            yield f"{key}[].{name}" if schemas.holds_list(node) else f"{key}.{name}"
