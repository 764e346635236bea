"""Where training stands in the data, and how a resume comes to stand there again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.data import Sampler

from leviathan_train.trainer import upstream
from leviathan_train.trainer.protocol import TrainerLike


def position(trainer: TrainerLike) -> dict[str, int]:
    """Where training stands in the data, in batches of one rank.

    `global_step` alone does not tell: an epoch of packed rows may end some batches early, and
    so does one of streamed rows, of which transformers (`set_initial_training_values`) assumes
    that it lasts for all steps of the training. Of these, `batches_per_epoch` is 0.
    """
    accumulation = int(trainer.args.gradient_accumulation_steps)
    known = upstream.train_batches(trainer)
    batches = known or trainer.state.max_steps * accumulation
    epoch, done = divmod(round(trainer.state.epoch * batches), batches)
    return {
        "epoch": epoch,
        "batches": done,
        "batches_per_epoch": known,
        "gradient_accumulation_steps": accumulation,
    }


def start_at(trainer: TrainerLike, stored: Mapping[str, int]) -> None:
    """Let training go on where `position` said; call it before training begins.

    Where batches are made in another way now, transformers' own reckoning stays.
    """
    accumulation = stored["gradient_accumulation_steps"]
    steps = max(1, math.ceil(stored["batches_per_epoch"] / accumulation))

    def place(max_steps: int, steps_per_epoch: int) -> tuple[int, int] | None:
        if stored["batches_per_epoch"] and steps != steps_per_epoch:
            return None
        if trainer.args.gradient_accumulation_steps != accumulation:
            return None
        if trainer.args.ignore_data_skip:
            return None
        return stored["epoch"], stored["batches"]

    upstream.start_at(trainer, place)


class SeededByEpoch(Sampler):
    """A sampler that draws from torch's global generator, given one of its own for each epoch.

    transformers' `LengthGroupedSampler` (`group_by_length: true`) shuffles with whatever state
    the global generator happens to be in; a resume within an epoch cannot bring that back. The
    order of an epoch then depends on nothing but the seed and the epoch's number.

    Args:
        sampler: has an attribute `generator`, which is None.
    """

    def __init__(self, sampler: Any, seed: int) -> None:
        self._sampler = sampler
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate's data loaders at the start of each epoch."""
        self._epoch = epoch

    def __iter__(self) -> Any:
        self._sampler.generator = torch.Generator().manual_seed(self._seed + self._epoch)
        return iter(self._sampler)

    def __len__(self) -> int:
        return len(self._sampler)


def make_order_repeatable(trainer: TrainerLike) -> None:
    """Give samplers that draw from the global generator one of their own.

    Random samplers are left alone: accelerate's data loaders carry their seed.
    """

    def wrap(sampler: Any) -> Any:
        draws_globally = getattr(sampler, "generator", "none") is None
        if not draws_globally or isinstance(sampler, torch.utils.data.RandomSampler):
            return sampler
        args = trainer.args
        seed = args.data_seed if args.data_seed is not None else args.seed
        return SeededByEpoch(sampler, int(seed))

    upstream.wrap_train_sampler(trainer, wrap)
