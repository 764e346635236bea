"""Finished runs, older checkpoints, two branches, and a checkpoint named in the config."""

from __future__ import annotations

from pathlib import Path

import pytest

from leviathan_train.checkpoints import store as checkpoints
from leviathan_train.run.folder import Run
from support.demo import MakeConfig
from support.driver import differences, leviathan, pause_at, train, training_state

pytestmark = [pytest.mark.train, pytest.mark.slow]


def steps_in(folder: Path) -> list[int]:
    return [step for step, _ in checkpoints.folders(Run(folder))]


def aside(run: Path) -> list[Path]:
    return sorted((run / "superseded").iterdir())


def test_a_run_is_left_and_taken_up_again_in_branches(
    make_config: MakeConfig, env: dict[str, str], tmp_path: Path
) -> None:
    config = make_config(tmp_path, max_steps=12, save_steps=4, eval_steps=4)
    run = tmp_path / "run"
    train(config, env=env)
    assert steps_in(run) == [4, 8, 12]

    again = leviathan("train", config, cwd=tmp_path, env=env, check=0)
    assert "already finished, at step 12" in again.stdout
    assert steps_in(run) == [4, 8, 12]

    train(config, "--resume", "4", env=env)  # a second branch, to its end
    (first,) = aside(run)
    assert steps_in(first) == [8, 12]
    assert (first / "checkpoint-final").is_dir()
    assert steps_in(run) == [4, 8, 12]
    straight = training_state(first / "checkpoint-12")
    assert not differences(straight, training_state(run / "checkpoint-12"))

    third = pause_at(config, 5, "--resume", "4", env=env)  # a third one, paused on its way
    assert steps_in(run) == [4, third]
    assert len(aside(run)) == 2
    output = train(config, env=env)
    assert f"FOUND EXISTING CHECKPOINT: step {third}" in output
    assert steps_in(run) == sorted({4, third, 8, 12})
    assert len(aside(run)) == 2
    assert not differences(straight, training_state(run / "checkpoint-12"))

    back = str(first / "checkpoint-8")  # the first branch, brought back
    fourth = pause_at(config, 9, "--resume", back, env=env)
    assert steps_in(run) == [8, fourth]
    assert steps_in(first) == [12]
    assert steps_in(aside(run)[-1]) == sorted({4, third, 8, 12})
    train(config, env=env)
    assert not differences(straight, training_state(run / "checkpoint-12"))


def test_a_checkpoint_named_in_the_config_is_obeyed_once(
    make_config: MakeConfig, env: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "origin").mkdir()
    origin = make_config(tmp_path / "origin", max_steps=8, save_steps=4, eval_steps=4)
    train(origin, env=env)
    named = tmp_path / "origin/run/checkpoint-4"
    config = make_config(
        tmp_path, max_steps=8, save_steps=4, eval_steps=4, resume_from_checkpoint=str(named)
    )
    step = pause_at(config, 5, env=env)
    assert steps_in(tmp_path / "run") == [step]
    output = train(config, env=env)
    assert "obeyed before" in output
    assert f"FOUND EXISTING CHECKPOINT: step {step}" in output
    assert not differences(
        training_state(tmp_path / "origin/run/checkpoint-8"),
        training_state(tmp_path / "run/checkpoint-8"),
    )
    assert steps_in(tmp_path / "origin/run") == [4, 8]
