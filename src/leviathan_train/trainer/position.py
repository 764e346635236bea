"""Where training stands in the data, and how a resume comes to stand there again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
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
        "micro_batch_size": int(trainer.args.per_device_train_batch_size),
    }


def start_at(trainer: TrainerLike, stored: Mapping[str, int], ranks: int, ranks_then: int) -> None:
    """Let training go on where `position` said; call it before training begins.

    On another number of ranks that is after the same rows: micro-batch after micro-batch of one
    order is dealt out to them. Where batches are made in another way now, transformers' own
    reckoning stays.
    """
    here = placed(stored, trainer.args, ranks, ranks_then)
    if here is None or trainer.args.ignore_data_skip:
        return

    def place(steps_per_epoch: int) -> tuple[int, int] | None:
        if here.batches_per_epoch and abs(here.steps_per_epoch - steps_per_epoch) > here.tolerance:
            return None
        return here.epoch, here.batches

    upstream.start_at(trainer, place)


@dataclass(frozen=True)
class Place:
    """A place in the data, in batches of one rank.

    Attributes:
        batches_per_epoch: 0 where nobody knows.
        tolerance: by how many steps an epoch may differ, from the rounding to whole ones.
    """

    epoch: int
    batches: int
    batches_per_epoch: int
    steps_per_epoch: int
    tolerance: int = 0


def placed(stored: Mapping[str, int], args: Any, ranks: int, ranks_then: int) -> Place | None:
    """Where a stored `position` is on these ranks; None where their steps have other rows."""
    accumulation = int(args.gradient_accumulation_steps)
    then, epoch = stored["gradient_accumulation_steps"], stored["epoch"]
    batches, known = stored["batches"], stored["batches_per_epoch"]
    if ranks == ranks_then:
        if accumulation != then:
            return None
        return Place(epoch, batches, known, max(1, math.ceil(known / then)))
    micro = stored.get("micro_batch_size")
    all_batches = batches * ranks_then
    same_steps = accumulation * ranks == then * ranks_then
    if micro != args.per_device_train_batch_size or not same_steps or all_batches % ranks:
        return None
    per_epoch = math.ceil(known * ranks_then / ranks)
    steps = max(1, math.ceil(per_epoch / accumulation))
    return Place(epoch, all_batches // ranks, per_epoch, steps, tolerance=1)


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
