"""A network mount that hangs: commands first, then trainings."""

from __future__ import annotations

from pathlib import Path

import pytest

from faults import bench, hanging


@pytest.fixture(autouse=True)
def fuse() -> None:
    if why := hanging.missing():
        pytest.skip(why)


def test_no_command_hangs_with_a_mount(tmp_path: Path) -> None:
    tries = hanging.commands(tmp_path)
    assert all(one.survived for one in tries), [one for one in tries if not one.survived]


@pytest.mark.slow
@pytest.mark.train
def test_a_training_outlives_a_mount_that_hangs(tmp_path: Path) -> None:
    made = bench.make(tmp_path / "bench", max_steps=40, eval_steps=40, save_steps=5)
    seed = bench.seed()
    tries = hanging.Waiting(made, seed, tmp_path, last=40).tries()
    tries += hanging.Hung(made, seed, tmp_path, kills=2, last=40).tries()
    assert tries and all(one.survived for one in tries), f"seed {seed}: {tries}"
