"""Making the optimizer and the schedule of a resumed training obey the config.

transformers (`_load_optimizer_and_scheduler`) lets the checkpoint's settings win: a changed
learning rate or weight decay would silently have no effect.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import torch

from leviathan_train.errors import LeviathanError
from leviathan_train.trainer import upstream
from leviathan_train.trainer.protocol import TrainerLike

Group = dict[str, Any]

_RATES = {"lr", "initial_lr"}
_LED_BY_METRIC = {"ReduceLROnPlateau", "GreedyLR"}
"""Schedules that depend on the evaluations so far, and so cannot be built for a step."""


def name_weight_decay(optimizer: Any) -> None:
    """Give each parameter group the key `weight_decay`; Axolotl's Muon calls it `wd` alone.

    Axolotl 0.21 (`_load_optimizer_and_scheduler`) reads it from every group at a resume, and
    would end with a KeyError. Muon itself does not read it.
    """
    for group in optimizer.param_groups:
        group.setdefault("weight_decay", group.get("wd", 0.0))


def fresh_groups(optimizer: Any) -> list[Group]:
    """The settings of each parameter group as the config gives them.

    Some optimizers keep state in their groups as well (schedule-free: `k`, `weight_sum`,
    `train_mode`; Prodigy: `d`), which a checkpoint must win over. Settings are what the
    constructor takes.
    """
    inner = optimizer
    while hasattr(inner, "optimizer"):
        inner = inner.optimizer  # accelerate wraps it, and so does DeepSpeed
    settings = {*_RATES, "weight_decay"} | {
        name
        for kind in type(inner).__mro__
        if (constructor := vars(kind).get("__init__"))
        for name in inspect.signature(constructor).parameters
    }
    return [
        {key: copy.deepcopy(value) for key, value in group.items() if key in settings - {"params"}}
        for group in optimizer.param_groups
    ]


def apply_settings(trainer: TrainerLike, fresh: list[Group], max_steps: int) -> str | None:
    """Make the optimizer and the schedule obey the config instead of the checkpoint.

    The schedule is built anew from the config on a stand-in optimizer and brought to the
    current step. Where it differs from the loaded one, it takes its place: the next step
    uses what the new schedule gives at that step. Where nothing differs, nothing is touched.

    Args:
        fresh: the groups from `fresh_groups`, taken before the checkpoint was loaded.

    Returns:
        What changed, for the user; None if nothing did.

    Raises:
        LeviathanError: the parameter groups do not match.
    """
    optimizer, scheduler = trainer.optimizer, trainer.lr_scheduler
    if scheduler is None:
        return None
    if len(fresh) != len(optimizer.param_groups):
        raise LeviathanError("The checkpoint's optimizer has other parameter groups.")
    before = [group["lr"] for group in optimizer.param_groups]
    rebuilt, wanted = _wanted(trainer, fresh, max_steps)
    changed = set()
    for real, want, given in zip(optimizer.param_groups, wanted, fresh, strict=True):
        changed |= _set_group(real, want, given, follows_schedule=rebuilt is not None)
    if rebuilt is not None:
        _replace_schedule(scheduler, rebuilt)
    told = []
    if before != (after := [group["lr"] for group in optimizer.param_groups]):
        told.append(f"learning_rate {float(before[0]):.3e} -> {float(after[0]):.3e}")
    elif rebuilt is not None:
        told.append("the learning rate schedule")
    told += [f"{key}={wanted[0].get(key)}" for key in sorted(changed - _RATES)]
    return ", ".join(told) or None


def _wanted(
    trainer: TrainerLike, fresh: list[Group], max_steps: int
) -> tuple[Any | None, list[Group]]:
    """The schedule to put in place of the loaded one, if they differ; the groups' settings."""
    loaded = trainer.lr_scheduler
    if type(loaded).__name__ in _LED_BY_METRIC:
        groups = trainer.optimizer.param_groups
        return None, [_keep_factor(old, new) for old, new in zip(groups, fresh, strict=True)]
    rebuilt, wanted = _schedule_at(trainer, fresh, trainer.state.global_step, max_steps)
    same = _same_state(rebuilt.state_dict(), loaded.state_dict())
    return (None if same else rebuilt), wanted


def _set_group(real: Group, want: Group, given: Group, *, follows_schedule: bool) -> set[str]:
    """Set what differs in a parameter group; the names of it.

    What is neither a rate nor in the config's own group comes from a schedule (momentum in
    one_cycle) and is set only with it.
    """
    changed = set()
    for key, value in want.items():
        set_by_config = key in _RATES or key in given
        if key in real and (set_by_config or follows_schedule) and not _equal(real[key], value):
            changed.add(key)
            real[key] = value
    return changed


def _replace_schedule(loaded: Any, rebuilt: Any) -> None:
    state = rebuilt.state_dict()
    for key in set(loaded.state_dict()) - set(state):
        del loaded.__dict__[key]  # left by a schedule of another kind
    loaded.load_state_dict(state)


def _schedule_at(
    trainer: TrainerLike, fresh: list[Group], step: int, max_steps: int
) -> tuple[Any, list[Group]]:
    """The config's schedule at `step`, and the groups of the stand-in that it steers."""
    groups = [
        {"params": [torch.nn.Parameter(torch.zeros(1))], **copy.deepcopy(group)} for group in fresh
    ]
    for group in groups:
        group.pop("initial_lr", None)
    stand_in = torch.optim.AdamW(groups, lr=float(trainer.args.learning_rate))
    scheduler = upstream.build_schedule(trainer, max_steps, stand_in)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no optimizer steps between the scheduler's
        upstream.advance_schedule(scheduler, step)
    steered = [
        {key: value for key, value in group.items() if key != "params"}
        for group in stand_in.param_groups
    ]
    return scheduler, steered


def _keep_factor(old: Group, new: Group) -> Group:
    """Settings of `new`, the rate lowered by the same factor as the loaded one was."""
    base = float(old.get("initial_lr") or old["lr"]) or 1.0
    factor = float(old["lr"]) / base
    start = new.get("initial_lr") or new["lr"]
    return {**new, "lr": float(start) * factor, "initial_lr": start}


def _same_state(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    keys = (set(one) | set(other)) - upstream.SCHEDULE_INTERNALS
    return all(key in one and key in other and _equal(one[key], other[key]) for key in keys)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) or isinstance(other, torch.Tensor):
        return bool(torch.equal(torch.as_tensor(one).cpu(), torch.as_tensor(other).cpu()))
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    if hasattr(one, "state_dict") and hasattr(other, "state_dict"):
        return _same_state(one.state_dict(), other.state_dict())
    return bool(one == other) or callable(one)
