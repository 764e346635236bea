"""What changed between a checkpoint and the config that is to resume from it.

Each change is told with its effect before a GPU is touched.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from pathlib import Path
from typing import Any

from leviathan_train.config import batch, effects, versions
from leviathan_train.config import schema as schemas
from leviathan_train.config.base_model import has_fingerprint, same_base
from leviathan_train.config.effects import Effect
from leviathan_train.config.inputs import DataFacts, changed_data, config_base_facts
from leviathan_train.config.load import PLUGIN, Config, normalise, number
from leviathan_train.config.redact import REDACTED, quoted
from leviathan_train.errors import LeviathanError
from leviathan_train.system.units import clock

_STEP_KEYS = frozenset({"gradient_accumulation_steps", "batch_size"})


class Topic(Enum):
    """What a change is a change of."""

    SETTING = auto()
    BASE_MODEL = auto()
    DATA_FILE = auto()
    VERSION = auto()
    PROCESSES = auto()


@dataclass(frozen=True)
class Origin:
    """What made a checkpoint, as far as it is known.

    Attributes:
        step, epoch: where it stands.
        world_size: number of processes that wrote it.
        settings: the config of that time; empty for a checkpoint of plain Axolotl.
        inputs: see `inputs.input_facts`.
        versions: of the libraries, by name.
        adapter_config: peft's `adapter_config.json`; None without an adapter. It and
            `trainer_state` are looked at only where there are no settings.
        trainer_state: transformers' `trainer_state.json`.
    """

    step: int
    epoch: float | None = None
    world_size: int = 1
    settings: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    adapter_config: Mapping[str, Any] | None = None
    trainer_state: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Change:
    """One difference, with its effect.

    Attributes:
        key: the config's key, or what else differs.
        old, new: the values; None where the key is not set.
        why: the effect in the user's words.
    """

    key: str
    old: Any
    new: Any
    effect: Effect
    why: str
    topic: Topic = Topic.SETTING

    @property
    def shown(self) -> tuple[str, str]:
        """The values as people see them: without credentials, in at most 60 characters each."""
        return quoted(self.key, self.old), quoted(self.key, self.new)

    @property
    def needs_yes(self) -> bool:
        """Whether a resume goes on only if the user agrees."""
        return self.effect in {Effect.ORDER, Effect.ASKED}


def changes_since(origin: Origin, config: Config, *, world_size: int | None = None) -> list[Change]:
    """What differs between `config` and what made a checkpoint, the worst effects first.

    Args:
        world_size: number of processes of the start, if it is known.
    """
    found = list(_sealed(origin, config) if origin.settings else _unsealed(origin, config))
    if world_size and world_size != origin.world_size:
        found = [*_on_other_processes(origin, config, world_size, found)]
    order = list(Effect)
    return sorted(found, key=lambda change: order.index(change.effect))


def _on_other_processes(
    origin: Origin, config: Config, processes: int, found: list[Change]
) -> Iterator[Change]:
    """The changes, with that of the number of processes, which may make up for another one."""
    before, after, old = origin.settings, config.values, origin.world_size
    kept = bool(before) and batch.keeps_step(before, after, old, processes)
    rows = batch.rows_of_step(before, old)
    effect, why = Effect.ORDER, effects.ROWS
    if after.get("deepspeed"):
        effect, why = Effect.REFUSED, "DeepSpeed cannot divide its states anew"
    elif kept:
        effect = Effect.ASKED
        why = f"{rows} rows a step as before, but summed in another way: not bit-identical"
    elif before and batch.is_packed(after):
        why = f"packed rows are shuffled in another way: {effects.ROWS}"
    elif before:
        keep = batch.accumulation_to_keep(before, after, old, processes)
        cure = f"gradient_accumulation_steps: {keep} keeps them" if keep else "nothing keeps them"
        now = batch.rows_of_step(after, processes)
        why = f"{now} rows a step instead of {rows}, and {effects.ROWS}; {cure}"
    change = Change("number of processes", old, processes, effect, why, Topic.PROCESSES)
    balanced = _balanced(replace(change, effect=Effect.ORDER), origin, config)
    yield balanced if balanced.effect is Effect.REFUSED else change
    for one in found:
        if kept and one.effect is Effect.ORDER and one.key in _STEP_KEYS:
            one = replace(one, effect=Effect.TAKES_EFFECT, why=f"{rows} rows a step as before")
        yield one


def _sealed(origin: Origin, config: Config) -> Iterator[Change]:
    before, after = origin.settings, config.values
    old_base, new_base = origin.inputs.get("base") or {}, config_base_facts(config)
    same = same_base(old_base, new_base)
    for key in sorted((set(before) | set(after)) - effects.NOT_SETTINGS):
        old, new = _meaning(key, before.get(key)), _meaning(key, after.get(key))
        if old == new or REDACTED in repr(before.get(key)):
            continue
        if same and key in {"base_model", "revision_of_model"}:
            continue
        follows_base = key in {"tokenizer_config", "base_model_config"}
        if same and follows_base and new in (None, after.get("base_model")):
            continue
        change = Change(key, before.get(key), after.get(key), *_effect(key, origin, config))
        yield _balanced(change, origin, config)
    yield from _base_changes(old_base, new_base, same, before, after)
    for path, was in changed_data(config, origin.inputs.get("data") or {}):
        yield _data_change(path, was)
    for name, old, new, effect, why in versions.changed(origin.versions, before):
        yield Change(f"version of {name}", old, new, effect, why, Topic.VERSION)


def _effect(key: str, origin: Origin, config: Config) -> tuple[Effect, str]:
    """What a change of one key does, and why."""
    if key in effects.REFUSED:
        return Effect.REFUSED, effects.REFUSED[key]
    if key in effects.ORDER:
        return Effect.ORDER, effects.ORDER[key]
    if key in effects.NO_EFFECT:
        return Effect.NONE, effects.NO_EFFECT[key]
    if key in {"max_steps", "num_epochs"} and (past := _already_past(config.values, origin)):
        return Effect.REFUSED, past
    if key == "num_epochs" and number(config.values, "max_steps"):
        return Effect.NONE, "max_steps decides when training ends"
    schedulers = {str(values.get(key)) for values in (origin.settings, config.values)}
    if key == "lr_scheduler" and effects.OWN_STATE & schedulers:
        return Effect.REFUSED, "the two schedulers' states are incompatible"
    if told := effects.TAKES_EFFECT.get(key):
        return Effect.TAKES_EFFECT, told
    if _is_dropped(key, config):
        return Effect.NONE, "Axolotl does not know this key, and drops it"
    return Effect.TAKES_EFFECT, "Axolotl reads it at each start"


def _is_dropped(key: str, config: Config) -> bool:
    """Whether no one reads a key; one that a plugin may bring, or that nobody can tell, is read."""
    with contextlib.suppress(LeviathanError):
        schema = schemas.ask(config.plugins)
        return schema.is_complete and key not in schema.keys
    return False


def _balanced(change: Change, origin: Origin, config: Config) -> Change:
    """The change, refused if it moves rows that `balance_labels` balances.

    Axolotl 0.21 keeps the sampler's settings in `balanced_sampler.json` and raises at a resume
    with others (core/trainers/base.py, `_run_epoch`), after the model has loaded.
    """
    balances = all(
        _meaning("balance_labels", values.get("balance_labels"))
        for values in (origin.settings, config.values)
    )
    if change.effect is not Effect.ORDER or not balances:
        return change
    why = "balance_labels cannot resume with other batches"
    return replace(change, effect=Effect.REFUSED, why=why)


def _already_past(values: Mapping[str, Any], origin: Origin) -> str:
    """Why there is nothing left to train for this config; empty if there is."""
    if steps := number(values, "max_steps"):
        past = f"the checkpoint is already past it, at step {origin.step}"
        return past if steps < origin.step else ""
    epochs = normalise(values.get("num_epochs") or 1)
    if isinstance(epochs, int | float) and origin.epoch and epochs < origin.epoch:
        return f"the checkpoint is already past it, at epoch {origin.epoch:.2f}"
    return ""


def _base_changes(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    same: bool | None,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
) -> Iterator[Change]:
    """What the names of the base models do not tell."""
    name = after.get("base_model")
    if name != before.get("base_model") and not same:
        return  # told as a change of the key
    if same is False:
        why = f"its files have changed; {effects.BELONGS}"
        told = "another model under that name"
        yield Change("base_model", name, told, Effect.REFUSED, why, Topic.BASE_MODEL)
    elif has_fingerprint(new) and not has_fingerprint(old):
        judged = "its config.json and size match" if old.get("config") else "its name matches"
        why = f"the checkpoint is of an older version, which did not record them; {judged}"
        told = "recorded from now on"
        key = "weights of base_model"
        yield Change(key, "not recorded", told, Effect.NOTED, why, Topic.BASE_MODEL)


def _unsealed(origin: Origin, config: Config) -> Iterator[Change]:
    """Compare with what plain Axolotl leaves: `adapter_config.json` and the trainer's state."""
    values = config.values
    for key, old in _of_adapter(origin.adapter_config, config):
        yield Change(key, old, values.get(key), Effect.REFUSED, effects.REFUSED[key])
    old = origin.trainer_state.get("train_batch_size")
    if old and _meaning("micro_batch_size", values.get("micro_batch_size")) != old:
        key = "micro_batch_size"
        yield Change(key, old, values.get(key), Effect.ORDER, effects.ORDER[key])
    if past := number(values, "max_steps") and _already_past(values, origin):
        old = origin.trainer_state.get("max_steps")
        yield Change("max_steps", old, values.get("max_steps"), Effect.REFUSED, past)


def _of_adapter(adapter: Mapping[str, Any] | None, config: Config) -> Iterator[tuple[str, Any]]:
    """Key and old value of each setting that an adapter's own config tells to be another."""
    values = config.values
    if bool(values.get("adapter")) != (adapter is not None):
        yield "adapter", adapter.get("peft_type") if adapter else None
        return
    if adapter is None:
        return
    pairs: list[tuple[str, Any]] = [
        ("lora_r", adapter.get("r")),
        ("lora_alpha", adapter.get("lora_alpha")),
        ("peft_use_dora", adapter.get("use_dora")),
        ("peft_use_rslora", adapter.get("use_rslora")),
        ("lora_modules_to_save", adapter.get("modules_to_save")),
    ]
    if not values.get("lora_target_linear"):
        pairs.append(("lora_target_modules", adapter.get("target_modules")))
    for key, old in pairs:
        if _meaning(key, old) != _meaning(key, values.get(key)):
            yield key, old
    base, new = adapter.get("base_model_name_or_path"), values.get("base_model")
    if base and new and Path(str(base)).name != Path(str(new)).name:
        yield "base_model", base


def _data_change(path: Path, was: DataFacts) -> Change:
    why = (
        "the prepared rows hide it: keep them (same order), or rebuild them (all rows come in"
        " another order)"
    )
    try:
        now = _stamp(DataFacts.of(path))
    except OSError:
        now = "not readable"
    return Change(f"data file {path}", _stamp(was), now, Effect.ASKED, why, Topic.DATA_FILE)


def _stamp(facts: DataFacts) -> str:
    return f"{facts.bytes} bytes of {clock(facts.mtime_ns // 10**9)}"


def _meaning(key: str, value: Any) -> Any:
    """A value in a form in which equal meanings are equal."""
    value = normalise(value)
    if value is None:
        value = effects.DEFAULTS.get(key)
    if value is False or value in ([], {}) or (value == 0 and key in effects.DEFAULTS):
        value = None
    if key in {"lora_target_modules", "lora_modules_to_save"} and isinstance(value, list):
        return sorted(map(str, value))
    if key == "plugins":  # the trainer's own record of its settings has ours among them
        named = [value] if isinstance(value, str) else value or []
        return [name for it in named if (name := str(it).replace(":", ".")) != PLUGIN]
    if key in {"datasets", "test_datasets"} and isinstance(value, list):
        return [_dataset(entry) for entry in value]
    if isinstance(value, str) and re.fullmatch(r"(?i)true|yes", value):
        return True
    return value


def _dataset(entry: Any) -> Any:
    if not isinstance(entry, Mapping):
        return entry
    return {key: part for key, part in sorted(entry.items()) if part is not None}
