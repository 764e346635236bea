"""What the ranks of a training tell each other. Every rank makes the same calls in one order."""

from __future__ import annotations

import os
import re
from typing import Any

import torch
import torch.distributed as dist


def world() -> tuple[int, int]:
    """This process's rank and the number of ranks, as torchrun tells them."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def machines() -> tuple[int, int]:
    """This machine's number and how many there are, as torchrun tells them."""
    group, groups = os.environ.get("GROUP_RANK", "0"), os.environ.get("GROUP_WORLD_SIZE", "1")
    return int(group), int(groups)


def is_local_main() -> bool:
    """Whether this process is the first one of its machine."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def know_cpu_ranks() -> None:
    """Let torch load a checkpoint on several CPU ranks.

    transformers (`_load_optimizer_and_scheduler`) loads with `map_location="cpu:0"`, a
    location that torch does not know. Mended in axolotl 0.21; harmless there.
    """
    torch.serialization.register_package(
        100,
        lambda _: None,
        lambda storage, at: storage if re.fullmatch(r"cpu:\d+", at) else None,
    )


class Ranks:
    """The group of all ranks; without one, a single process.

    The group is of gloo: a pause must work while NCCL hangs, and its messages are of bytes.
    """

    def __init__(self, rank: int, size: int) -> None:
        self.rank = rank
        self.size = size
        self._group: Any = None

    def open(self) -> None:
        """Make the group; on all ranks, once torch.distributed is initialised."""
        if self.size > 1 and dist.is_initialized():
            self._group = dist.new_group(backend="gloo")

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Each flag: whether it is set on any rank; the same answer on all ranks."""
        if self._group is None:
            return flags
        told = torch.tensor([int(flag) for flag in flags], dtype=torch.int32)
        dist.all_reduce(told, op=dist.ReduceOp.MAX, group=self._group)
        return tuple(bool(flag) for flag in told)

    def gather(self, value: Any) -> list[Any]:
        """The value of each rank, by rank, on all ranks."""
        if self._group is None:
            return [value]
        gathered: list[Any] = [None] * self.size
        dist.all_gather_object(gathered, value, group=self._group)
        return gathered

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self._group is not None:
            dist.barrier(group=self._group)

    def leave(self) -> None:
        """Take leave of the other ranks, so that none of them waits."""
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()


def broadcast_name(name: str | None) -> str | None:
    """Rank 0's value, on all ranks; before there is a group of our own."""
    box = [name]
    if dist.is_available() and dist.is_initialized():
        dist.broadcast_object_list(box, src=0)
    return box[0]
