"""The short part of the failing system calls."""

from __future__ import annotations

from pathlib import Path

import pytest

from faults import disks, injected
from faults.bench import environment
from support import shapes
from support.forked import Forge


@pytest.mark.parametrize("call", ["mkdir", "rename", "fsync"])
def test_no_failing_call_in_a_save_harms_what_was_sealed(call: str, tmp_path: Path) -> None:
    if why := injected.missing():
        pytest.skip(why)
    prepared = shapes.make(tmp_path / "prepared", 10)
    tries = injected.one_by_one(call, tmp_path, prepared, every=9)
    assert tries and all(one.survived for one in tries), tries


@pytest.mark.train
def test_a_training_over_its_quota_ends_with_the_last_checkpoint_intact(tmp_path: Path) -> None:
    if why := disks.missing("btrfs"):
        pytest.skip(why)
    with Forge(environment()) as forge:
        made = injected.make(tmp_path / "bench", forge)
        tries = [injected.over_quota(made, forge, part, tmp_path / "quota") for part in (0.1, 0.7)]
    assert all(one.survived for one in tries), tries
