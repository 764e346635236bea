"""The short part of the power cuts: what was sealed or published is there afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from faults import bench, disks
from faults.power import cuts
from support import shapes


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """The files of a checkpoint."""
    return shapes.make(tmp_path / "prepared", 10)


@pytest.mark.parametrize("kind", ["ext4", pytest.param("xfs", marks=pytest.mark.slow)])
def test_what_was_sealed_outlives_a_power_cut(kind: str, tmp_path: Path, prepared: Path) -> None:
    if why := disks.missing(kind):
        pytest.skip(why)
    seed = bench.seed()
    tries = cuts(kind, seed, 4, tmp_path, prepared)
    assert all(one.survived for one in tries), f"seed {seed}: {tries}"


def test_a_power_cut_is_felt_by_what_is_not_forced_to_disk(
    tmp_path: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if why := disks.missing("ext4"):
        pytest.skip(why)
    (tmp_path / "sitecustomize.py").write_text("import os\nos.fsync = lambda fd: None\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    tries = cuts("ext4", 1, 4, tmp_path, prepared)
    assert not any(one.survived for one in tries), tries
