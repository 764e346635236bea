"""What changed between a checkpoint and the config that is to go on from it.

Each changed key is told with its effect before a GPU is touched. The effects were found on
the real axolotl 0.19; `docs/resume.md` holds the table, proven by `tests/real/test_changes.py`.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any, Literal

from leviathan_train.checkpoints.store import Checkpoint, ranks_of
from leviathan_train.config.load import Config, input_facts, normalise
from leviathan_train.system.files import read_json

Effect = Literal["takes effect", "has no effect", "changes the data order", "asked", "refused"]

_ARCHITECTURE = "the adapter's weights would not fit or would mean something else"
_GROUPS = "the optimizer's state belongs to other parameter groups"
_ROWS = "the rows come in another order or grouping, so some are repeated or left out"
_FORMAT = "the data would be cut or written in another format than the adapter has learned"

REFUSED: Mapping[str, str] = {
    "base_model": "the adapter belongs to the base model it was trained on",
    "model_type": "the adapter belongs to the base model it was trained on",
    "adapter": _ARCHITECTURE,
    "lora_r": _ARCHITECTURE,
    "lora_alpha": "the adapter's output would be scaled anew, and the loss would jump",
    "lora_target_modules": "the optimizer's momentum would be applied to other modules",
    "lora_target_linear": "the optimizer's momentum would be applied to other modules",
    "lora_target_parameters": "the optimizer's momentum would be applied to other modules",
    "lora_modules_to_save": _ARCHITECTURE,
    "lora_fan_in_fan_out": _ARCHITECTURE,
    "peft_use_dora": _ARCHITECTURE,
    "peft_use_rslora": "the adapter's output would be scaled anew, and the loss would jump",
    "peft_layers_to_transform": _ARCHITECTURE,
    "peft_layers_pattern": _ARCHITECTURE,
    "peft_trainable_token_indices": _ARCHITECTURE,
    "unfrozen_parameters": _GROUPS,
    "load_in_4bit": "the adapter has learned to make up for another rounding of the base",
    "load_in_8bit": "the adapter has learned to make up for another rounding of the base",
    "sequence_len": _FORMAT,
    "sample_packing": _FORMAT,
    "chat_template": _FORMAT,
    "chat_template_jinja": _FORMAT,
    "special_tokens": _FORMAT,
    "tokens": _FORMAT,
    "tokenizer_config": _FORMAT,
    "tokenizer_type": _FORMAT,
    "added_tokens_overrides": _FORMAT,
    "optimizer": "another optimizer cannot read this one's state; the first step would fail",
    "loraplus_lr_ratio": _GROUPS,
    "loraplus_lr_embedding": _GROUPS,
    "embedding_lr": _GROUPS,
    "embedding_lr_scale": _GROUPS,
    "lr_groups": _GROUPS,
    "deepspeed": "the checkpoint is laid out for another kind of sharding",
    "fsdp": "the checkpoint is laid out for another kind of sharding",
    "fsdp_config": "the checkpoint is laid out for another kind of sharding",
    "fsdp_version": "the checkpoint is laid out for another kind of sharding",
    "rl": "it is another kind of training",
    "relora": "it is another kind of training",
}

ORDER: Mapping[str, str] = {
    "micro_batch_size": "batches already seen are counted in the new size: " + _ROWS,
    "gradient_accumulation_steps": "steps are counted in the new size: " + _ROWS,
    "batch_size": "batches already seen are counted in the new size: " + _ROWS,
    "seed": _ROWS,
    "data_seed": _ROWS,
    "val_set_size": "rows move between training and evaluation: " + _ROWS,
    "datasets": _ROWS,
    "pretraining_dataset": _ROWS,
    "dataset_exact_deduplication": _ROWS,
    "shuffle_merged_datasets": _ROWS,
    "shuffle_before_merging_datasets": _ROWS,
    "curriculum_sampling": _ROWS,
    "group_by_length": _ROWS,
    "train_on_inputs": "other tokens count for the loss from here on",
    "excess_length_strategy": _ROWS,
    "min_sample_len": _ROWS,
    "pad_to_sequence_len": "the loss is averaged over batches of another shape",
    "sample_packing_bin_size": _ROWS,
    "sample_packing_group_size": _ROWS,
    "sample_packing_sequentially": _ROWS,
    "sample_packing_eff_est": _ROWS,
    "multipack_real_batches": _ROWS,
}

NOTED: Mapping[str, str] = {
    "learning_rate": "from the next step what the new schedule gives at that step",
    "lr_scheduler": "from the next step what the new schedule gives at that step",
    "lr_scheduler_kwargs": "from the next step what the new schedule gives at that step",
    "warmup_steps": "from the next step what the new schedule gives at that step",
    "warmup_ratio": "from the next step what the new schedule gives at that step",
    "cosine_min_lr_ratio": "from the next step what the new schedule gives at that step",
    "cosine_constant_lr_ratio": "from the next step what the new schedule gives at that step",
    "num_epochs": "the schedule is stretched to the new number of steps",
    "max_steps": "the schedule is stretched to the new number of steps",
    "save_steps": "saves follow the new interval",
    "eval_steps": "evaluations follow the new interval",
    "logging_steps": "log lines follow the new interval",
    "save_total_limit": "older checkpoints go at the next save",
    "weight_decay": "from the next step",
    "adam_beta1": "from the next step",
    "adam_beta2": "from the next step",
    "adam_epsilon": "from the next step",
    "max_grad_norm": "from the next step",
    "lora_dropout": "from the next step",
}

_OWN_STATE = {"one_cycle", "rex", "reduce_lr_on_plateau", "greedy"}
"""Schedules with a state of their own kind; that of any other is the same, a step count."""

NOT_SETTINGS = {"axolotl_config_path", "resume_from_checkpoint", "strict"}
"""What names the files of a start and is no setting of the training."""

NO_EFFECT: Mapping[str, str] = {
    "auto_resume_from_checkpoints": "the checkpoint is chosen before the launch",
    "output_dir": "it names the run",
    "plugins": "our plugin is always added",
    "save_only_model": "every checkpoint is one to resume from",
    "dataset_prepared_path": "the same rows are prepared elsewhere",
}

_DEFAULTS: Mapping[str, Any] = {
    "seed": 42,
    "gradient_accumulation_steps": 1,
    "micro_batch_size": 1,
    "val_set_size": 0,
    "lora_dropout": 0,
    "weight_decay": 0,
    "max_grad_norm": 1,
    "num_epochs": 1,
    "lr_scheduler": "cosine",
    "optimizer": "adamw_torch_fused",
    "sequence_len": 512,
    "shuffle_merged_datasets": True,
}
"""Axolotl's defaults (utils/schemas): a key set to its default is no change."""


class Topic(Enum):
    """What a change is a change of."""

    SETTING = auto()
    DATA_FILE = auto()


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
    def needs_yes(self) -> bool:
        """Whether a resume goes on only if the user agrees."""
        return self.effect in {"changes the data order", "asked"}


def compare(
    config: Config, checkpoint: Checkpoint, *, world_size: int | None = None
) -> list[Change]:
    """What differs between `config` and what made `checkpoint`, in the order of the effects.

    Args:
        world_size: number of processes of the start, if it is known.
    """
    seal = checkpoint.seal
    found = list((_sealed if seal and seal.config else _unsealed)(config, checkpoint))
    if world_size and world_size != (old := ranks_of(checkpoint)):
        found.append(
            Change("number of processes", old, world_size, "changes the data order", _ROWS)
        )
    order = ("refused", "changes the data order", "asked", "takes effect", "has no effect")
    return sorted(found, key=lambda change: order.index(change.effect))


def _sealed(config: Config, checkpoint: Checkpoint) -> Iterator[Change]:
    seal = checkpoint.seal
    assert seal is not None
    old_config, new_config = seal.config, config.values
    inputs, now = seal.trainer.get("inputs") or {}, input_facts(config)
    same_base = _same_base(inputs.get("base") or {}, now["base"])
    for key in sorted((set(old_config) | set(new_config)) - NOT_SETTINGS):
        old, new = _meaning(key, old_config.get(key)), _meaning(key, new_config.get(key))
        if old == new or "[redacted]" in repr(old_config.get(key)):
            continue
        if key == "base_model" and same_base:
            continue
        if (
            key in {"tokenizer_config", "base_model_config"}
            and same_base
            and new in (None, config.values.get("base_model"))
        ):
            continue
        yield _judged(key, old_config.get(key), new_config.get(key), new_config, checkpoint)
    if same_base is False and old_config.get("base_model") == new_config.get("base_model"):
        yield Change(
            "base_model", "as it was", "its files changed", "refused", REFUSED["base_model"]
        )
    yield from _data_changes(inputs.get("data") or {}, now["data"])
    yield from _version_changes(seal.versions)


def _judged(
    key: str, old: Any, new: Any, values: Mapping[str, Any], checkpoint: Checkpoint
) -> Change:
    if key in REFUSED:
        return Change(key, old, new, "refused", REFUSED[key])
    if key in ORDER:
        return Change(key, old, new, "changes the data order", ORDER[key])
    if key in NO_EFFECT:
        return Change(key, old, new, "has no effect", NO_EFFECT[key])
    if key in {"max_steps", "num_epochs"} and (past := _already_past(values, checkpoint)):
        return Change(key, old, new, "refused", past)
    if key == "num_epochs" and _max_steps(values):
        return Change(key, old, new, "has no effect", "max_steps decides when training ends")
    if key == "lr_scheduler" and _OWN_STATE & {old, new}:
        return Change(key, old, new, "refused", "the one's state cannot be loaded into the other")
    why = NOTED.get(key, "read anew by Axolotl at each start")
    return Change(key, old, new, "takes effect", why)


def _max_steps(values: Mapping[str, Any]) -> int | None:
    """The number of steps that the config fixes; None if the epochs decide."""
    steps = normalise(values.get("max_steps"))
    return int(steps) if isinstance(steps, int | float) and steps > 0 else None


def _already_past(values: Mapping[str, Any], checkpoint: Checkpoint) -> str:
    """Why there is nothing left to train for this config; empty if there is."""
    if steps := _max_steps(values):
        if steps < checkpoint.step:
            return f"the checkpoint is already past it, at step {checkpoint.step}"
        return ""
    epochs, reached = normalise(values.get("num_epochs") or 1), checkpoint.facts.epoch
    if isinstance(epochs, int | float) and reached and epochs < reached:
        return f"the checkpoint is already past it, at epoch {reached:.2f}"
    return ""


def _unsealed(config: Config, checkpoint: Checkpoint) -> Iterator[Change]:
    """Compare with what plain Axolotl leaves: `adapter_config.json` and the trainer's state."""
    adapter = read_json(checkpoint.path / "adapter_config.json")
    values = config.values
    if bool(values.get("adapter")) != isinstance(adapter, Mapping):
        had = adapter.get("peft_type") if isinstance(adapter, Mapping) else None
        yield Change("adapter", had, values.get("adapter"), "refused", REFUSED["adapter"])
    elif isinstance(adapter, Mapping):
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
                yield Change(key, old, values.get(key), "refused", REFUSED[key])
        base = adapter.get("base_model_name_or_path")
        new = values.get("base_model")
        if base and new and Path(str(base)).name != Path(str(new)).name:
            yield Change("base_model", base, new, "refused", REFUSED["base_model"])
    state = read_json(checkpoint.path / "trainer_state.json")
    if isinstance(state, Mapping):
        old = state.get("train_batch_size")
        if old and _meaning("micro_batch_size", values.get("micro_batch_size")) != old:
            key = "micro_batch_size"
            yield Change(key, old, values.get(key), "changes the data order", ORDER[key])
        if past := _max_steps(values) and _already_past(values, checkpoint):
            old = state.get("max_steps")
            yield Change("max_steps", old, values.get("max_steps"), "refused", past)


def _data_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    for path in sorted(set(old) & set(new)):
        if list(old[path]) != list(new[path]):
            why = (
                "the prepared rows hide it: keep them (same order), or rebuild them (all rows"
                " come in another order)"
            )
            before, after = _stamp(old[path]), _stamp(new[path])
            yield Change(f"data file {path}", before, after, "asked", why, Topic.DATA_FILE)


def _stamp(facts: Any) -> str:
    from datetime import datetime

    changed = datetime.fromtimestamp(facts[1]).strftime("%Y-%m-%d %H:%M:%S")
    return f"{facts[0]} bytes of {changed}"


def _version_changes(old: Mapping[str, str]) -> Iterator[Change]:
    for name, version in old.items():
        try:
            now = importlib.metadata.version("leviathan-train" if name == "leviathan" else name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if now == version or name == "leviathan":
            continue
        major = now.split(".")[0] != version.split(".")[0]
        effect: Effect = "asked" if major else "takes effect"
        yield Change(
            f"version of {name}", version, now, effect, "the checkpoint was made by another"
        )


def _same_base(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool | None:
    """Whether both name the same model; None where only the names can tell."""
    if old.get("config") and new.get("config"):
        return bool(old["config"] == new["config"] and old.get("bytes") == new.get("bytes"))
    return True if old.get("name") == new.get("name") else None


def _meaning(key: str, value: Any) -> Any:
    """A value in a form in which equal meanings are equal."""
    value = normalise(value)
    if value is None or value is False or value == [] or value == {}:
        value = _DEFAULTS.get(key) if value is None else (value or None)
        value = None if value in (False, 0, [], {}) else value
    if key in _DEFAULTS and value == 0:
        value = None
    if key in {"lora_target_modules", "lora_modules_to_save"} and isinstance(value, list):
        return sorted(map(str, value))
    if key == "datasets" and isinstance(value, list):
        return [_dataset(entry) for entry in value]
    if isinstance(value, str) and re.fullmatch(r"(?i)true|yes", value):
        return True
    return value


def _dataset(entry: Any) -> Any:
    if not isinstance(entry, Mapping):
        return entry
    return {key: part for key, part in sorted(entry.items()) if part is not None}
