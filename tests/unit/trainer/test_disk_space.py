"""What goes, and what never does, where the disk has no room for the next checkpoint."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from leviathan_train.checkpoints import store
from leviathan_train.checkpoints.retention import Policy
from leviathan_train.run.folder import Run
from leviathan_train.system.files import free_bytes, is_out_of_space
from leviathan_train.trainer.disk_space import Room
from support import shapes
from support.disks import fill

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def loop_at(run: Path, step: int, *, resumed: int | None = None, ranks: int = 1) -> Any:
    """A training loop as far as room is made in it."""
    heard: list[str] = []
    return SimpleNamespace(
        process=SimpleNamespace(run=Run(run), rank=0, say=heard.append),
        trainer=SimpleNamespace(state=SimpleNamespace(global_step=step)),
        ranks=SimpleNamespace(size=ranks, rank=0),
        checkpoint=run / f"checkpoint-{step}",
        resumed=None if resumed is None else run / f"checkpoint-{resumed}",
        heard=heard,
    )


def steps(run: Path) -> list[int]:
    return [step for step, _ in store.folders(Run(run))]


def everything_that_may_go(loop: Any, policy: Policy | None) -> None:
    """Let nothing that is freed be enough: a disk of which no byte is free."""
    room = Room(loop, policy)
    room._free(1 << 60)


def test_the_last_intact_the_best_what_was_resumed_from_and_multiples_never_go(
    tmp_path: Path,
) -> None:
    for step in (10, 20, 30, 40, 50):
        shapes.make(tmp_path, step, sealed=True, best_global_step=20)
    shapes.make(tmp_path, 60, sealed=True)
    (tmp_path / "checkpoint-60" / "optimizer.pt").unlink()  # damaged: 50 is the last intact one
    loop = loop_at(tmp_path, 70, resumed=30)
    everything_that_may_go(loop, Policy(9, keep_every=40))
    assert steps(tmp_path) == [20, 30, 40, 50]


def test_a_run_that_keeps_all_loses_nothing(tmp_path: Path) -> None:
    for step in (10, 20):
        shapes.make(tmp_path, step, sealed=True)
    everything_that_may_go(loop_at(tmp_path, 30), None)
    assert steps(tmp_path) == [10, 20]


def test_the_half_written_one_goes_and_no_more_of_the_old_ones_than_is_needed(
    tmp_path: Path, small_disk: Path
) -> None:
    for step in (10, 20, 30, 40):
        shapes.make(small_disk, step, sealed=True)
    half = small_disk / "checkpoint-50"
    half.mkdir()
    (half / "optimizer.pt").write_bytes(b"x" * 100)
    fill(small_disk)
    loop = loop_at(small_disk, 50)
    Room(loop, Policy(9)).after(FULL)
    assert steps(small_disk) == [20, 30, 40]
    assert loop.heard == [
        "⚠️  No space left for checkpoint-50. Deleted to make room: checkpoint-10."
    ]
    assert not list(small_disk.glob(".leviathan-deleting-*"))


def test_a_damaged_one_goes_before_an_intact_one(small_disk: Path) -> None:
    for step in (10, 20, 30):
        shapes.make(small_disk, step, sealed=True)
    (small_disk / "checkpoint-20" / "README.md").unlink()
    fill(small_disk)
    Room(loop_at(small_disk, 40), Policy(9)).after(FULL)
    assert steps(small_disk) == [10, 30]


def test_another_error_is_raised_and_nothing_is_deleted(tmp_path: Path) -> None:
    for step in (10, 20):
        shapes.make(tmp_path, step, sealed=True)
    error = ValueError("no")
    with pytest.raises(ValueError, match="no") as raised:
        Room(loop_at(tmp_path, 30), Policy(1)).after(error)
    assert raised.value is error
    assert steps(tmp_path) == [10, 20]


def test_several_ranks_look_before_they_write(small_disk: Path) -> None:
    for step in (10, 20, 30):
        shapes.make(small_disk, step, sealed=True)
    Room(loop_at(small_disk, 40, ranks=2), Policy(9)).look_ahead()
    assert steps(small_disk) == [10, 20, 30]  # there is room
    fill(small_disk)
    Room(loop_at(small_disk, 40, ranks=2), Policy(9)).look_ahead()
    assert 10 not in steps(small_disk)
    assert 30 in steps(small_disk)


def test_a_finished_training_gets_room_for_its_adapter(small_disk: Path) -> None:
    for step in (10, 20, 30):
        shapes.make(small_disk, step, sealed=True)
    loop = loop_at(small_disk, 30)
    Room(loop, Policy(9)).for_final()
    assert (steps(small_disk), loop.heard) == ([10, 20, 30], [])
    fill(small_disk)
    Room(loop, Policy(9)).for_final()
    assert steps(small_disk) == [20, 30]
    assert "No space left for the final adapter. Deleted" in loop.heard[0]


def test_every_librarys_way_to_tell_of_a_full_disk_is_understood(small_disk: Path) -> None:
    kept = 64 * 1024
    ballast = fill(small_disk)
    with ballast.open("r+b") as stream:
        stream.truncate(ballast.stat().st_size - kept)
    large = torch.zeros(kept)
    raised: list[Exception] = []
    for write in (
        lambda: torch.save(large, small_disk / "a.pt"),
        lambda: save_file({"a": large}, small_disk / "a.safetensors"),
        lambda: (small_disk / "a.json").write_bytes(b"x" * 4 * kept),
    ):
        with pytest.raises(Exception) as error:
            write()
        raised.append(error.value)
        for left in small_disk.glob("a.*"):
            left.unlink()
    assert len({type(error) for error in raised}) == 3
    assert all(is_out_of_space(error, small_disk, 4 * kept) for error in raised)


def test_an_error_on_a_disk_with_room_is_not_blamed_on_it(small_disk: Path) -> None:
    too_much = 32 << 20
    assert not is_out_of_space(RuntimeError("shapes differ"), small_disk, 1 << 20)
    assert not is_out_of_space(PermissionError(errno.EACCES, "no"), small_disk, too_much)
    assert is_out_of_space(RuntimeError("shapes differ"), small_disk, too_much)
    assert is_out_of_space(OSError(errno.EDQUOT, "quota"), small_disk, 1)
    assert list(small_disk.iterdir()) == []


def test_what_is_free_is_known_of_a_run_that_is_not_there_yet(small_disk: Path) -> None:
    free = free_bytes(small_disk / "a" / "b")
    assert free is not None
    assert 0 < free <= 16 << 20
