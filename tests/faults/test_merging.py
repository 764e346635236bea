"""The short part of the merges that meet a fault."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from faults import injected, merging
from faults.bench import environment
from support.forked import Forge

pytestmark = pytest.mark.train


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_merge_that_meets_a_fault_leaves_what_was_there(tmp_path: Path) -> None:
    if why := injected.missing():
        pytest.skip(why)
    with Forge(environment()) as forge:
        bench = injected.make(tmp_path / "bench", forge)
    made = merging.make(bench, tmp_path / "merging")
    # That of the folder: before it come those of the README, the record and twice the model's.
    last = str(len(made.files) + 5)
    tries = [
        merging.full_disk(made, 0.5, replaces=True),
        *merging.failing(made, "write", "model.safetensors", False),
        *merging.failing(made, "fsync", last, True),
    ]
    assert len(tries) == 3 and all(one.survived for one in tries), tries
