"""What a training itself deletes, on the real Axolotl."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from leviathan_train.checkpoints import retention
from leviathan_train.checkpoints import store as checkpoints
from leviathan_train.checkpoints.retention import Policy, plan
from leviathan_train.run.folder import Run
from support.demo import Demo, MakeConfig
from support.forked import Forge

pytestmark = [pytest.mark.train, pytest.mark.axolotl]


@pytest.fixture(scope="module")
def forge(env: dict[str, str]) -> Iterator[Forge]:
    with Forge(env) as server:
        yield server


def test_a_training_keeps_the_k_best_and_what_a_cleanup_stripped(
    forge: Forge, make_config: MakeConfig, tmp_path: Path
) -> None:
    each = {"save_steps": 1, "eval_steps": 1, "logging_steps": 1, "lr_scheduler": "constant"}
    forge.must_train(make_config(tmp_path, **each, max_steps=4))
    run = Run(tmp_path / "run")
    found = checkpoints.scan(run)
    assert [item.step for item in found] == [1, 2, 3, 4]
    retention.carry_out(run, plan(found, Policy(1, keep_best=0, strip=True)))
    done = forge.must_train(
        make_config(
            tmp_path,
            **each,
            max_steps=9,
            save_total_limit=1,
            leviathan_keep_best=2,
            resume_from_checkpoint=str(run.checkpoint(4)),
        )
    )
    losses = done.logged("eval_loss", after=3)
    best = sorted(losses, key=lambda step: losses[step])[:2]
    left = {item.step: item.state for item in checkpoints.scan(run)}
    assert {step for step, state in left.items() if state == "weights"} == {1, 2, 3}
    assert {step for step, state in left.items() if state == "intact"} == {9, *best}


def test_the_k_best_are_by_the_metric_of_the_config(
    forge: Forge, make_config: MakeConfig, tmp_path: Path
) -> None:
    named = {"metric_for_best_model": "loss", "greater_is_better": True}  # so the worst are best
    done = forge.must_train(
        make_config(
            tmp_path,
            **named,
            save_steps=1,
            eval_steps=1,
            lr_scheduler="constant",
            max_steps=7,
            save_total_limit=1,
            leviathan_keep_best=2,
        )
    )
    losses = done.logged("eval_loss")
    best = sorted(losses, key=lambda step: -losses[step])[:2]
    found = checkpoints.scan(Run(tmp_path / "run"))
    assert {item.step for item in found} == {7, *best}
    assert [item.step for item in checkpoints.ranked(found)][:2] == best


def test_rows_that_are_prepared_anew_leave_those_of_other_files(
    forge: Forge, demo: Demo, make_config: MakeConfig, tmp_path: Path
) -> None:
    rows = demo.data.read_text().splitlines(keepends=True)
    folders: dict[str, set[str]] = {}

    def train(name: str, run: str) -> None:
        folder = tmp_path / run
        folder.mkdir()
        forge.must_train(
            make_config(
                folder,
                max_steps=1,
                datasets=[{"path": str(tmp_path / name), "ds_type": "json", "type": "alpaca"}],
                dataset_prepared_path=str(tmp_path / "prepared"),
            )
        )
        folders[run] = {path.name for path in (tmp_path / "prepared").iterdir() if path.is_dir()}

    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text("".join(rows[:200]))
        train(name, f"first of {name}")
    both, of_a = folders["first of b.jsonl"], folders["first of a.jsonl"]
    made = {name: (tmp_path / "prepared" / name).stat().st_ctime_ns for name in both}
    (tmp_path / "b.jsonl").write_text("".join(rows[100:400]))
    train("b.jsonl", "second of b.jsonl")
    assert folders["second of b.jsonl"] == both
    now = {name: (tmp_path / "prepared" / name).stat().st_ctime_ns for name in both}
    assert {name for name in both if now[name] == made[name]} == of_a
