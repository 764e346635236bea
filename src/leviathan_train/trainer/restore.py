"""What a resume needs beyond what transformers loads, in the trainer's process.

transformers 5.16 (`trainer.py`) restores adapter, optimizer, scheduler, RNG and the data's
position. It forgets the running loss sums and the patience counter of early stopping, and
it lets the checkpoint's optimizer settings and schedule win over the config's.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import EarlyStoppingCallback
from transformers.trainer_callback import ExportableState
from transformers.utils import is_peft_available

from leviathan_train.errors import LeviathanError

Group = dict[str, Any]


def loss_sums(trainer: Any) -> list[float]:
    """This rank's running sums: loss since the last log, loss until then, step of that log."""
    return [
        float(trainer._tr_loss.item()),
        float(trainer._total_loss_scalar),
        float(trainer._globalstep_last_logged),
    ]


def set_loss_sums(trainer: Any, sums: list[float]) -> None:
    """Put back what `loss_sums` gave, so that the next logged loss averages the same steps."""
    trainer._tr_loss.fill_(sums[0])
    trainer._total_loss_scalar = sums[1]
    trainer._globalstep_last_logged = int(sums[2])


def position(trainer: Any) -> dict[str, int]:
    """Where training stands in the data, in batches of one rank.

    `global_step` alone does not tell: an epoch of packed rows may end some batches early.
    """
    batches = len(trainer.callback_handler.train_dataloader) * trainer.get_sp_size()
    epoch, done = divmod(round(trainer.state.epoch * batches), batches)
    accumulation = int(trainer.args.gradient_accumulation_steps)
    return {
        "epoch": epoch,
        "batches": done,
        "batches_per_epoch": batches,
        "gradient_accumulation_steps": accumulation,
    }


def set_position(trainer: Any, stored: Mapping[str, int]) -> None:
    """Let training go on where `position` said; call it before training begins.

    transformers (`Trainer._init_training_state`) divides `global_step` by the steps that an
    epoch should have, and so skips too few or too many of packed rows. Where batches are
    made in another way now, its own reckoning stays.
    """
    original = trainer._init_training_state
    accumulation = stored["gradient_accumulation_steps"]
    steps = max(1, math.ceil(stored["batches_per_epoch"] / accumulation))

    def init(max_steps: int, steps_per_epoch: int, *args: Any) -> tuple[int, int]:
        own: tuple[int, int] = original(max_steps, steps_per_epoch, *args)
        if (steps, accumulation) != (
            steps_per_epoch,
            trainer.args.gradient_accumulation_steps,
        ) or trainer.args.ignore_data_skip:
            return own
        return stored["epoch"], stored["batches"]

    trainer._init_training_state = init


def pack_anew(dataloader: Any, epoch: int) -> None:
    """Drop the batches that counting an epoch left in the sampler of packed rows.

    Within an epoch, accelerate 1.13 (`data_loader.py`, `SkipBatchSampler`) hides the sampler
    from `set_epoch`, and axolotl 0.19 (`samplers/multipack.py`) would go on with the rows of
    another epoch.
    """
    sampler: Any = getattr(dataloader, "batch_sampler", None)
    if hasattr(sampler, "set_epoch"):
        sampler.set_epoch(epoch)


def restore_callbacks(trainer: Any) -> None:
    """Let early stopping go on counting, and newly added callbacks be saved.

    `restore_callback_states_from_checkpoint` would also bring back the old patience and
    replace the trainer's control, so only the counter is taken. A callback that the
    checkpoint did not know would raise KeyError at the first save (`_save_checkpoint`).
    """
    stored = trainer.state.stateful_callbacks
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, EarlyStoppingCallback):
            known = stored.get("EarlyStoppingCallback")
            known = known[-1] if isinstance(known, list) and known else known
            if isinstance(known, Mapping):
                counter = known.get("attributes", {}).get("early_stopping_patience_counter", 0)
                callback.early_stopping_patience_counter = counter
    for callback in [*trainer.callback_handler.callbacks, trainer.control]:
        if isinstance(callback, ExportableState):
            stored.setdefault(callback.__class__.__name__, callback.state())


def fresh_groups(optimizer: Any) -> list[Group]:
    """The settings of each parameter group as the config gives them, without parameters."""
    return [
        {key: copy.deepcopy(value) for key, value in group.items() if key != "params"}
        for group in optimizer.param_groups
    ]


def apply_settings(trainer: Any, fresh: list[Group], max_steps: int) -> str | None:
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
    if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled or scheduler is None:
        return None
    if len(fresh) != len(optimizer.param_groups):
        raise LeviathanError("The checkpoint's optimizer has other parameter groups.")
    before = [group["lr"] for group in optimizer.param_groups]
    if type(scheduler).__name__ in {"ReduceLROnPlateau", "GreedyLR"}:
        groups = [
            _keep_factor(old, new) for old, new in zip(optimizer.param_groups, fresh, strict=True)
        ]
        rebuilt = None
    else:
        rebuilt, groups = _schedule_at(trainer, fresh, trainer.state.global_step, max_steps)
        if _same_state(rebuilt.state_dict(), scheduler.state_dict()):
            rebuilt = None
    changed = []
    for real, want, given in zip(optimizer.param_groups, groups, fresh, strict=True):
        for key, value in want.items():
            of_schedule = key in {"lr", "initial_lr"} or key not in given
            if key not in real or (
                of_schedule and rebuilt is None and key not in {"lr", "initial_lr"}
            ):
                continue
            if not _equal(real[key], value):
                changed.append(key)
                real[key] = value
    if rebuilt is not None:
        state = rebuilt.state_dict()
        for key in set(scheduler.state_dict()) - set(state):
            del scheduler.__dict__[key]  # left by a schedule of another kind
        scheduler.load_state_dict(state)
    after = [group["lr"] for group in optimizer.param_groups]
    others = sorted(set(changed) - {"lr", "initial_lr"})
    told = []
    if before != after:
        told.append(f"learning_rate {float(before[0]):.3e} -> {float(after[0]):.3e}")
    elif rebuilt is not None:
        told.append("the learning rate schedule")
    told += [f"{key}={groups[0].get(key)}" for key in others]
    return ", ".join(told) or None


def counts(trainer: Any) -> tuple[int | None, int | None]:
    """Updates that the loaded optimizer has made, and steps that the loaded schedule counts.

    An optimizer without state, or whose every moment is 0, has made none.
    """
    made: int | None = None
    state = trainer.optimizer.state_dict().get("state")
    for entry in (state or {}).values():
        if isinstance(entry, Mapping) and "step" in entry:
            made = max(made or 0, int(entry["step"]))
    if state == {} or (made and _all_zero(state)):
        made = 0
    last = getattr(trainer.lr_scheduler, "last_epoch", None)
    return made, last if isinstance(last, int) else None


def _all_zero(state: Any) -> bool:
    moments = [
        value
        for entry in state.values()
        if isinstance(entry, Mapping)
        for key, value in entry.items()
        if key != "step" and isinstance(value, torch.Tensor) and value.is_floating_point()
    ]
    return bool(moments) and not any(bool(moment.any()) for moment in moments)


def _schedule_at(
    trainer: Any, fresh: list[Group], step: int, max_steps: int
) -> tuple[Any, list[Group]]:
    """The config's schedule at `step`, and the groups of the stand-in that it steers."""
    groups = [
        {"params": [torch.nn.Parameter(torch.zeros(1))], **copy.deepcopy(group)} for group in fresh
    ]
    for group in groups:
        group.pop("initial_lr", None)
    stand_in = torch.optim.AdamW(groups, lr=float(trainer.args.learning_rate))
    loaded, created = trainer.lr_scheduler, trainer._created_lr_scheduler
    trainer.lr_scheduler = None
    try:
        scheduler = trainer.create_scheduler(max_steps, optimizer=stand_in) or trainer.lr_scheduler
    finally:
        trainer.lr_scheduler, trainer._created_lr_scheduler = loaded, created
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no optimizer steps between the scheduler's
        if type(scheduler) is torch.optim.lr_scheduler.LambdaLR and step > 0:
            scheduler.last_epoch, scheduler._step_count = step - 1, step
            scheduler.step()
        else:
            for _ in range(step):
                scheduler.step()
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
    ignored = {"lr_lambdas", "verbose", "_is_initial", "_get_lr_called_within_step"}
    keys = (set(one) | set(other)) - ignored
    return all(key in one and key in other and _equal(one[key], other[key]) for key in keys)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) or isinstance(other, torch.Tensor):
        return bool(torch.equal(torch.as_tensor(one).cpu(), torch.as_tensor(other).cpu()))
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    if hasattr(one, "state_dict") and hasattr(other, "state_dict"):
        return _same_state(one.state_dict(), other.state_dict())
    return bool(one == other) or callable(one)


def prove_loaded(trainer: Any, checkpoint: Path) -> Iterator[str]:
    """Compare the loaded state with the checkpoint's files, and name what is equal.

    Yields:
        `adapter weights`, `optimizer state`, `LR schedule`: each only after every tensor
        of it was found equal.

    Raises:
        LeviathanError: something loaded is not what the file holds.
    """
    if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        return
    if (verdict := _adapter_equals(trainer, checkpoint)) is not None:
        yield _claim("adapter weights", verdict, checkpoint)
    for name, file, owner in (
        ("optimizer state", "optimizer.pt", trainer.optimizer),
        ("LR schedule", "scheduler.pt", trainer.lr_scheduler),
    ):
        if (checkpoint / file).is_file():
            stored = torch.load(checkpoint / file, map_location="cpu", weights_only=True)
            yield _claim(name, _tree_equal(stored, owner.state_dict()), checkpoint)


def _claim(name: str, holds: bool, checkpoint: Path) -> str:
    if not holds:
        raise LeviathanError(f"The {name} did not load as {checkpoint} holds it.")
    return name


def _adapter_equals(trainer: Any, checkpoint: Path) -> bool | None:
    file = checkpoint / "adapter_model.safetensors"
    if not file.is_file() or not is_peft_available():
        return None
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors.torch import load_file

    model = trainer.accelerator.unwrap_model(trainer.model)
    if not isinstance(model, PeftModel):
        return None
    stored = load_file(file)
    live = get_peft_model_state_dict(model)
    shared = stored.keys() & live.keys()
    if not shared or any("lora_" in key for key in stored.keys() - shared):
        return False
    return all(_tensor_equal(stored[key], live[key]) for key in shared)


def _tensor_equal(stored: torch.Tensor, live: torch.Tensor) -> bool:
    stored = stored.to(device=live.device, dtype=live.dtype)
    return stored.shape == live.shape and bool(torch.equal(stored, live.detach()))


def _tree_equal(stored: Any, live: Any) -> bool:
    if isinstance(stored, torch.Tensor) and isinstance(live, torch.Tensor):
        return _tensor_equal(stored, live)
    if isinstance(stored, Mapping) and isinstance(live, Mapping):
        return stored.keys() == live.keys() and all(
            _tree_equal(stored[key], live[key]) for key in stored
        )
    if isinstance(stored, list | tuple) and isinstance(live, list | tuple):
        return len(stored) == len(live) and all(map(_tree_equal, stored, live))
    return bool(stored == live) or callable(live)
