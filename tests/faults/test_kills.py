"""The short part of the kills: `./scripts/faults.sh` is the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from faults import bench
from faults.kills import Chain
from faults.results import Results, Try, table

LAST = 40


@pytest.mark.train
def test_a_training_that_is_killed_twice_ends_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Chain, "whom", ("trainer", "all at once", "data worker"))
    monkeypatch.setattr(Chain, "instants", ("save", "step"))
    made = bench.make(tmp_path / "bench", max_steps=LAST, eval_steps=LAST, save_steps=5)
    seed = bench.seed()
    tries = Chain(made, seed, tmp_path, kills=2, last=LAST).tries()
    assert tries and all(one.survived for one in tries), f"seed {seed}: {tries}"


def test_a_round_continues_where_it_was_interrupted(tmp_path: Path) -> None:
    file = tmp_path / "work/results.jsonl"
    first = Results(file)
    first.add("kills 1", [Try("kill -9", inside=True, lost=3), Try("kill -9", problem="hung")])
    with file.open("a") as stream:
        stream.write('{"key": "kills 2", "tr')  # killed amid a line
    again = Results(file)
    assert "kills 1" in again
    assert "kills 2" not in again
    again.add("kills 2", [Try("power cut")])
    rows = table(Results(file).tries()).splitlines()
    assert rows[2:] == [
        "| kill -9 | 2 | 1 | 1 | 3 | 0 | 0 | 0 |",
        "| power cut | 1 | 0 | 1 | 0 | 0 | 0 | 0 |",
        "| **All** | 3 | 1 | 2 | 3 | 0 | 0 | 0 |",
    ]
