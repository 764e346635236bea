"""Proving the rows: what a checkpoint knows will come next, compared with what comes.

A seal keeps two digests of the next batches of each rank: of the places of their rows in the
data set, and of the rows' tokens. They are drawn from the live sampler by a second iteration,
which repeats what the first one gives for every sampler whose order depends on the seed and
the epoch alone; torch's global generator is put back afterwards.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Any

import torch

from leviathan_train.trainer.protocol import TrainerLike

BATCHES = 8
"""So many batches of a rank are looked at."""
ROWS = 64
"""Of so many rows at most the tokens are read."""


class Rows(StrEnum):
    """What a comparison came to."""

    SAME = "same"
    OTHER_ORDER = "other order"
    OTHER_CONTENT = "other content"


def digests(trainer: TrainerLike, place: Mapping[str, int]) -> dict[str, str] | None:
    """Digests of the batches that this rank draws next in the current epoch.

    Args:
        place: `epoch`, and `batches` of this rank that were trained in it so far.

    Returns:
        `places` and `tokens`; None where nothing follows in this epoch, or where rows are
        streamed and have no place.
    """
    loader = trainer.callback_handler.train_dataloader
    sampler = getattr(loader, "batch_sampler", None)
    if sampler is None or not hasattr(loader.dataset, "__getitem__"):
        return None
    state, done = torch.get_rng_state(), place["batches"]
    try:
        with _at_epoch(sampler, place["epoch"]):
            coming = list(itertools.islice(iter(sampler), done, done + BATCHES))
    finally:
        torch.set_rng_state(state)
    places = list(_flat(coming))
    if not places:
        return None
    tokens = hashlib.sha256()
    for number in places[:ROWS]:
        row = loader.dataset[number]
        tokens.update(repr(list(row["input_ids"]) if "input_ids" in row else row).encode())
    # How the places are grouped counts, too: other packs are other batches.
    grouped = hashlib.sha256(repr(coming).encode())
    return {"places": grouped.hexdigest(), "tokens": tokens.hexdigest()}


@contextlib.contextmanager
def _at_epoch(sampler: Any, epoch: int) -> Iterator[None]:
    """Let a sampler draw as in `epoch`, and be as it was afterwards.

    accelerate's `SeedableRandomSampler` moves to the next epoch when it is exhausted, which data
    workers that fetch ahead may have done long before the last batch is trained.
    """
    before = []
    while sampler is not None:
        if isinstance(getattr(sampler, "epoch", None), int):
            before.append((sampler, sampler.epoch))
            sampler.epoch = epoch
        sampler = getattr(sampler, "batch_sampler", None) or getattr(sampler, "sampler", None)
    try:
        yield
    finally:
        for moved, own in before:
            moved.epoch = own


def compared(known: Mapping[str, str], found: Mapping[str, str]) -> Rows:
    """What two results of `digests` say of each other."""
    if known.get("places") != found.get("places"):
        return Rows.OTHER_ORDER
    return Rows.SAME if known.get("tokens") == found.get("tokens") else Rows.OTHER_CONTENT


def _flat(value: Iterable[Any]) -> Iterator[int]:
    for part in value:
        if isinstance(part, Iterable):
            yield from _flat(part)
        else:
            yield int(part)
