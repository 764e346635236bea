"""The values of a config that cannot be: Axolotl would refuse them seconds later.

Their types are Axolotl's own, judged by pydantic's core as Axolotl judges them. What Axolotl
lets through and a training does not, is in the tables below.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.machinery import PathFinder
from typing import Any

from leviathan_train.config.lines import KeyPath, path_in, shown
from leviathan_train.config.load import entries, nearest, number
from leviathan_train.config.redact import redact
from leviathan_train.config.schema import Node, Schema

_ADAPTERS = {"lora", "qlora"}
_SEEDS = 2**32 - 1
_FEW = 8
"""Names that a message lists; of more, only the nearest is told."""
_LONG = 60
"""Characters of a value that a message quotes."""


@dataclass(frozen=True)
class Wrong:
    """A value that cannot be.

    Attributes:
        text: the key with its parents, the value, and what it should be.
        hint: what to do about it.
        is_certain: it fails whatever else the config says; otherwise it is most likely a typo.
    """

    path: KeyPath
    text: str
    hint: str
    is_certain: bool = True


@dataclass(frozen=True)
class Bound:
    """What a number must be, beyond its type.

    Attributes:
        low, high: both may be reached.
        above: it must be greater.
        when: whether the bound counts, by the config's values.
    """

    low: float | None = None
    high: float | None = None
    above: float | None = None
    when: Callable[[Mapping[str, Any]], bool] = lambda values: True

    def broken(self, value: float) -> str | None:
        """What the number must be; None if it is."""
        if math.isnan(value):
            return "must be a number"
        if self.above is not None and value <= self.above:
            return f"must be greater than {self.above:g}"
        if self.low is not None and value < self.low:
            return f"must be at least {self.low:g}"
        if self.high is not None and value > self.high:
            return f"must be at most {self.high:.12g}"
        return None


def _trains_adapter(values: Mapping[str, Any]) -> bool:
    return values.get("adapter") in _ADAPTERS


# Each was tried on axolotl 0.19 (tests/unit/config/test_values.py): the training fails after
# the model has loaded, or trains nothing at all. 0 is no number of save_steps or eval_steps,
# but Axolotl takes it for "not set".
BOUNDS: Mapping[str, Bound] = {
    "dataloader_num_workers": Bound(low=0),  # torch, DataLoader
    "eval_batch_size": Bound(low=0),  # torch, BatchSampler; 0 is as micro_batch_size
    "eval_steps": Bound(low=0),
    "gradient_accumulation_steps": Bound(low=1, when=lambda values: not values.get("batch_size")),
    "learning_rate": Bound(low=0),  # torch, each optimizer
    "logging_steps": Bound(above=0),  # transformers, TrainingArguments
    "lora_dropout": Bound(low=0, high=1, when=_trains_adapter),  # torch, Dropout
    "lora_r": Bound(low=1, when=_trains_adapter),  # peft, LoraLayer.update_layer
    "micro_batch_size": Bound(low=1),
    "num_epochs": Bound(
        above=0, when=lambda values: not number(values, "max_steps")
    ),  # trains no step, and says so nowhere
    "save_steps": Bound(low=0),
    "seed": Bound(low=0, high=_SEEDS),  # numpy, random.seed
    "sequence_len": Bound(low=1),
    "val_set_size": Bound(low=0),  # datasets, train_test_split
    "warmup_steps": Bound(low=0),  # transformers, TrainingArguments
}

# Built in (axolotl, utils/schemas/peft.py, `validate_adapter`); plugins bring others.
ADAPTERS = ("lora", "qlora", "llama-adapter")

# Which type an entry of `datasets` is read as (axolotl, utils/config, `validate_config`).
_DATASETS = {"dpo": "DPODataset", "ipo": "DPODataset", "simpo": "DPODataset", "kto": "KTODataset"}
_SFT, _SYNTHETIC = "SFTDataset", "SyntheticDataset"
# Which prompt strategies it may name (axolotl, utils/data/rl.py, `_load_split`).
_STRATEGIES = {None: "", "dpo": "dpo", "ipo": "dpo", "simpo": "dpo", "kto": "kto", "orpo": "orpo"}


def wrong_values(values: Mapping[str, Any], schema: Schema) -> list[Wrong]:
    """Every value that Axolotl would refuse, or that no training can use; one for each key."""
    found: dict[KeyPath, Wrong] = {}
    for wrong in (
        *_mistyped(values, schema),
        *_out_of_bounds(values),
        *_misnamed(values, schema),
        *_unknown_strategies(values, schema),
    ):
        found.setdefault(wrong.path, wrong)
    return list(found.values())


def _mistyped(values: Mapping[str, Any], schema: Schema) -> Iterator[Wrong]:
    """What pydantic refuses. An entry of `datasets` is read as one type, not as any of them."""
    nodes = {key: schema.keys[key] for key in values if key in schema.keys}
    yield from _refused(_typed_dict(nodes), values, ())
    for key, index, entry in entries(values, "datasets"):
        synthetic = entry.get("type") == "_synthetic"
        name = _DATASETS.get(str(values.get("rl"))) or (_SYNTHETIC if synthetic else _SFT)
        for node in _models(schema.keys.get(key, {}), name):
            yield from _refused(node, entry, (key, index))


def _typed_dict(nodes: Mapping[str, Node]) -> Node:
    fields = {key: {"type": "typed-dict-field", "schema": node} for key, node in nodes.items()}
    return {"type": "typed-dict", "fields": fields, "total": False}


def _models(node: Node, name: str) -> Iterator[Node]:
    """The model of this name in a type."""
    if node.get("metadata", {}).get("model") == name:
        yield node
    inner = [node[part] for part in ("schema", "items_schema") if part in node]
    for part in [*inner, *node.get("choices", ())]:
        yield from _models(part, name)


def _refused(node: Node, value: Any, at: KeyPath) -> Iterator[Wrong]:
    from pydantic_core import SchemaValidator, ValidationError  # 25 ms

    validator = SchemaValidator(node)
    try:
        validator.validate_python(value)
        return
    except ValidationError as error:
        details = error.errors(include_url=False)
    messages: dict[KeyPath, list[str]] = {}
    for detail in details:
        path = path_in(value, detail["loc"], is_missing=detail["type"] == "missing")
        messages.setdefault(path, []).append(detail["msg"])
    for path, texts in messages.items():
        deeper = any(other[: len(path)] == path and other != path for other in messages)
        if path and not deeper:  # of a union, the branch that the value was meant for
            yield _wrong(at, path, value, list(dict.fromkeys(texts)))


def _wrong(at: KeyPath, path: KeyPath, value: Any, texts: list[str]) -> Wrong:
    key = shown((*at, *path))
    for part in path:
        if isinstance(value, Mapping) and part not in value:
            return Wrong((*at, *path), f"{key} is missing", "Add it.")
        value = value[part]
    names = [name for text in texts for name in re.findall(r"'([^']+)'", text)]
    if len(names) > _FEW:
        return _no_such_name((*at, *path), value, names)
    wanted = " or ".join(text.removeprefix("Input should ") for text in texts)
    meant = nearest(str(value), names)
    hint = f"Did you mean {meant}?" if meant else "Correct it, or remove it."
    if not isinstance(value, str | list | Mapping | None) and "valid string" in wanted:
        hint = f'If it is meant as text, write it in quotes:  "{_as_written(value)}"'
    return Wrong((*at, *path), f"{key}: {_short(path, value)} should {wanted}", hint)


def _out_of_bounds(values: Mapping[str, Any]) -> Iterator[Wrong]:
    for key, bound in BOUNDS.items():
        value = values.get(key)
        if value is None or isinstance(value, bool | list | Mapping) or not bound.when(values):
            continue
        try:
            broken = bound.broken(float(value))
        except ValueError:
            broken = "must be a number"
        if broken:
            hint = "For example:  1e-4" if key == "learning_rate" else "Correct it, or remove it."
            yield Wrong((key,), f"{key}: {_short((key,), value)} {broken}", hint)


def _misnamed(values: Mapping[str, Any], schema: Schema) -> Iterator[Wrong]:
    plugins = [name for name in values.get("plugins") or () if "leviathan" not in str(name)]
    adapters = {} if plugins else {"adapter": ADAPTERS}
    for key, names in {**schema.choices, **adapters}.items():
        value = values.get(key)
        # attn_implementation: a name with a slash is a kernel of the hub
        if isinstance(value, str) and value and value not in names and "/" not in value:
            yield _no_such_name((key,), value, names)


def _unknown_strategies(values: Mapping[str, Any], schema: Schema) -> Iterator[Wrong]:
    """Misspelled prompt strategies. Rows that are tokenised already need none, so any name that
    is like no other passes; so does one that may be a module of the user's own."""
    kind = _STRATEGIES.get(values.get("rl"))
    if kind is None or values.get("skip_prepare_dataset"):
        return
    names = schema.strategies.get(kind, ())
    for key, index, entry in entries(values, "datasets", "test_datasets"):
        strategy = entry.get("type")
        if not isinstance(strategy, str):  # one of the user's own, or none
            continue
        first = re.split(r"[.:]", strategy)[0]
        if not first or first in names or _is_module(first):
            continue
        if meant := difflib.get_close_matches(first, names, n=1, cutoff=0.8):
            wrong = _no_such_name((key, index, "type"), strategy, names)
            hint = f"Did you mean {strategy.replace(first, meant[0], 1)}?"
            yield replace(wrong, hint=hint, is_certain=False)


def _is_module(name: str) -> bool:
    try:
        return PathFinder.find_spec(name, [os.getcwd(), *sys.path]) is not None
    except (ImportError, ValueError):
        return False


def _no_such_name(path: KeyPath, value: Any, names: Sequence[str]) -> Wrong:
    meant = nearest(str(value), names)
    hint = f"Did you mean {meant}?" if meant else f"Choose one of: {', '.join(names)}."
    return Wrong(
        path, f"{shown(path)}: {_short(path, value)} is not a name that Axolotl knows", hint
    )


def _short(path: KeyPath, value: Any) -> str:
    """The value as a message quotes it, with no credential in it."""
    key = str(path[-1])
    text = _as_written(redact({key: value})[key])
    return text if len(text) <= _LONG else text[: _LONG - 3] + "..."


def _as_written(value: Any) -> str:
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)
