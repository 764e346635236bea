"""Proving the rows: what a checkpoint knows will come next, compared with what comes.

A seal keeps two digests of the next batches of each rank: of the places of their rows in the
data set, and of the rows' tokens. They are drawn from the live sampler by a second iteration,
which repeats what the first one gives for every sampler whose order depends on the seed and
the epoch alone; torch's global generator is put back afterwards.
"""

from __future__ import annotations

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


def digests(trainer: TrainerLike, batches_done: int) -> dict[str, str] | None:
    """Digests of the batches that this rank draws next in the current epoch.

    Args:
        batches_done: batches of this rank that were drawn in the epoch so far.

    Returns:
        `places` and `tokens`; None where nothing follows in this epoch, or where rows are
        streamed and have no place.
    """
    loader = trainer.callback_handler.train_dataloader
    sampler = getattr(loader, "batch_sampler", None)
    if sampler is None or not hasattr(loader.dataset, "__getitem__"):
        return None
    state = torch.get_rng_state()
    try:
        coming = list(itertools.islice(iter(sampler), batches_done, batches_done + BATCHES))
    finally:
        torch.set_rng_state(state)
    places = list(_flat(coming))
    if not places:
        return None
    tokens = hashlib.sha256()
    for place in places[:ROWS]:
        row = loader.dataset[place]
        tokens.update(repr(list(row["input_ids"]) if "input_ids" in row else row).encode())
    # How the places are grouped counts, too: other packs are other batches.
    grouped = hashlib.sha256(repr(coming).encode())
    return {"places": grouped.hexdigest(), "tokens": tokens.hexdigest()}


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
