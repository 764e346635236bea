"""The rows of an optimizer's step, and what another number of processes makes of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from leviathan_train.config.load import normalise, number


def micro_batch(values: Mapping[str, Any]) -> int:
    """Rows that one process takes at a time."""
    return number(values, "micro_batch_size", 1)


def accumulation(values: Mapping[str, Any]) -> int:
    """Micro-batches of a process in a step, as Axolotl reckons them from either key."""
    if own := number(values, "gradient_accumulation_steps"):
        return own
    rows = number(values, "batch_size", micro_batch(values))
    return max(1, rows // micro_batch(values))


def is_packed(values: Mapping[str, Any]) -> bool:
    """Whether several rows are packed into one."""
    return normalise(values.get("sample_packing")) is True


def rows_of_step(values: Mapping[str, Any], processes: int) -> int:
    """Rows of one step, all processes together."""
    return micro_batch(values) * accumulation(values) * _groups(values, processes)


def keeps_step(before: Mapping[str, Any], after: Mapping[str, Any], old: int, new: int) -> bool:
    """Whether each step has the same rows on `new` processes as it had on `old` ones.

    The rows come in one order, and micro-batch after micro-batch is dealt out to the processes.
    Packed rows do not: Axolotl 0.19 shuffles them otherwise on one process than on several
    (utils/samplers/multipack.py keeps what it drew to count an epoch).
    """
    same_deal = micro_batch(before) == micro_batch(after) and not is_packed(after)
    return same_deal and rows_of_step(before, old) == rows_of_step(after, new)


def accumulation_to_keep(
    before: Mapping[str, Any], after: Mapping[str, Any], old: int, new: int
) -> int | None:
    """The `gradient_accumulation_steps` with which a step keeps its rows; None if none does."""
    rows, at_once = rows_of_step(before, old), micro_batch(after) * _groups(after, new)
    return rows // at_once if rows % at_once == 0 else None


def _groups(values: Mapping[str, Any], processes: int) -> int:
    """Groups of processes that take rows of their own; those of one group share a row."""
    shared = 1
    for key in ("tensor_parallel_size", "context_parallel_size"):
        shared *= number(values, key, 1)
    return max(1, processes // shared)


def packs(lengths: Iterable[int], limit: int) -> int:
    """How many packs the rows fill: the longest first, each where it fits, as Axolotl packs."""
    room: list[int] = []
    for length in sorted(lengths, reverse=True):
        at = next((index for index, free in enumerate(room) if free >= length), len(room))
        if at == len(room):
            room.append(limit)
        room[at] -= length
    return len(room)
