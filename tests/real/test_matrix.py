"""Some cells of the matrix of pauses; `python -m support.matrix` in `tests/` runs all of it."""

from __future__ import annotations

import pytest

from support.matrix import Bench, prepare

pytestmark = [pytest.mark.train, pytest.mark.axolotl]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return prepare(tmp_path_factory.mktemp("matrix"))


@pytest.mark.parametrize(
    ("phase", "way"),
    [("tokenising", "pause"), ("evaluating", "ctrl-c"), ("saving", "sigterm all")],
)
def test_a_pause_is_obeyed_and_leaves_no_trace(bench: Bench, phase: str, way: str) -> None:
    cell = bench.cell(phase, way)
    assert not cell.fault, cell
