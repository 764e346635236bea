"""What a start goes on from, and what becomes of what it leaves."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from leviathan_train.checkpoints import reseal, retention
from leviathan_train.checkpoints import store as checkpoints
from leviathan_train.checkpoints.aside import set_aside
from leviathan_train.checkpoints.origin import origin_of
from leviathan_train.config.changes import changes_since
from leviathan_train.config.effects import Effect
from leviathan_train.config.load import Config
from leviathan_train.errors import LeviathanError, UsageError
from leviathan_train.launch import resume
from leviathan_train.launch.command import build_argv
from leviathan_train.run.folder import Run
from leviathan_train.run.records import Launch
from leviathan_train.system import processes
from support import shapes


def plain_config(run: Path, **values: object) -> Config:
    return Config(run / "c.yaml", {"output_dir": str(run), "adapter": "lora", "lora_r": 8} | values)


def test_an_interrupted_save_stays_one_where_it_is_set_aside(tmp_path: Path) -> None:
    run = Run(tmp_path)
    shapes.make(tmp_path, 10)
    shapes.make(tmp_path, 30)
    run.begin_save("checkpoint-30")
    found = checkpoints.scan(run)
    assert [item.state for item in found] == ["unsealed", "damaged"]
    aside = set_aside(run, [found[1]])
    assert aside
    assert not checkpoints.select(run, str(aside / "checkpoint-30"), []).intact
    retention.clear_superseded(run)
    assert not run.superseded.exists()


def test_the_latest_intact_one_is_offered_with_why_a_newer_one_is_not(tmp_path: Path) -> None:
    run = Run(tmp_path)
    shapes.make(tmp_path, 10)
    (shapes.make(tmp_path, 20) / "optimizer.pt").unlink()
    found = checkpoints.scan(run)
    for choice in ("latest", "auto"):
        offer = resume.choose(run, plain_config(tmp_path), choice, found)
        assert offer.step == 10
        assert [item.reason[:23] for item in offer.damaged] == ["optimizer.pt is missing"]


@pytest.mark.parametrize(
    ("choice", "hint"), [("autp", "mean auto?"), ("nevr", "mean never?"), ("x", "Name ask, auto")]
)
def test_a_typo_of_a_choice_is_told_with_what_was_meant(
    tmp_path: Path, choice: str, hint: str
) -> None:
    with pytest.raises(UsageError, match=f"No checkpoint '{choice}'") as refused:
        resume.choose(Run(tmp_path), plain_config(tmp_path), choice, [])
    assert hint in str(refused.value.hint)


def test_what_a_live_training_uses_is_not_deleted_at_the_prompt(tmp_path: Path) -> None:
    run = Run(tmp_path)
    shapes.make(tmp_path, 10)
    found = checkpoints.scan(run)
    run.open_session(Launch(resume_step=10))
    with pytest.raises(LeviathanError, match="already training"):
        resume.delete_all(run, found)
    assert (tmp_path / "checkpoint-10").is_dir()


def test_a_checkpoint_of_plain_axolotl_is_compared_alike_before_and_after_a_reseal(
    tmp_path: Path,
) -> None:
    run = Run(tmp_path)
    shapes.make(tmp_path, 10)
    config = plain_config(tmp_path)
    (before,) = checkpoints.scan(run)
    found = [
        change
        for change in changes_since(origin_of(before), config)
        if change.effect is Effect.REFUSED
    ]
    reseal.reseal(run, before)
    (after,) = checkpoints.scan(run)
    assert after.state == "intact"
    again = [
        change
        for change in changes_since(origin_of(after), config)
        if change.effect is Effect.REFUSED
    ]
    assert again == found == []


@pytest.mark.parametrize("named", [True, "true", "own folder"])
def test_true_and_the_runs_own_folder_mean_its_newest(tmp_path: Path, named: object) -> None:
    run = Run(tmp_path)
    value = str(tmp_path) + "/" if named == "own folder" else named
    config = plain_config(tmp_path, resume_from_checkpoint=value)
    assert resume.choose(run, config, "auto", []).checkpoint is None
    assert "--resume_from_checkpoint=None" in build_argv(config, None, has_gpu=False)
    for step in (10, 20, 30):
        shapes.make(tmp_path, step)
    (tmp_path / "checkpoint-30/optimizer.pt").unlink()
    found = checkpoints.scan(run)
    offer = resume.choose(run, config, "auto", found)
    assert offer.checkpoint and offer.checkpoint.step == 20
    assert offer.from_config is None
    assert [item.step for item in offer.damaged] == [30]


@pytest.mark.parametrize("own", [True, False])
def test_the_folder_of_a_run_means_its_newest_intact_checkpoint(tmp_path: Path, own: bool) -> None:
    run = Run(tmp_path / "run")
    other = run.path if own else tmp_path / "other"
    for step in (10, 20):
        shapes.make(other, step)
    (other / "checkpoint-20/optimizer.pt").unlink()
    offer = resume.choose(run, plain_config(run.path), str(other), checkpoints.scan(run))
    assert offer.checkpoint and offer.checkpoint.path == other / "checkpoint-10"
    assert [item.step for item in offer.newer] == ([20] if own else [])
    config = plain_config(run.path, resume_from_checkpoint=str(other))
    named = resume.choose(run, config, "auto", checkpoints.scan(run))
    assert named.checkpoint == offer.checkpoint


def test_a_folder_that_is_no_run_has_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="No checkpoint"):
        checkpoints.select(Run(tmp_path), str(tmp_path / "empty"), [])


@pytest.mark.parametrize(
    ("values", "longer"),
    [({"num_epochs": 3}, True), ({"num_epochs": 1}, False), ({"max_steps": 200}, True)],
)
def test_a_finished_run_of_plain_axolotl_can_be_trained_on(
    tmp_path: Path, values: dict[str, object], longer: bool
) -> None:
    shapes.make(tmp_path, 100, max_steps=100, epoch=1.0)
    (found,) = checkpoints.scan(Run(tmp_path))
    assert resume.trains_longer(plain_config(tmp_path, **values), found) == longer


def test_a_process_with_half_a_character_in_its_name_is_no_obstacle(tmp_path: Path) -> None:
    # The kernel cuts a name at 15 bytes, amid the last of these.
    import shutil
    import subprocess

    odd = tmp_path / "abééééééééé"
    shutil.copy("/bin/sleep", odd)
    process = subprocess.Popen([odd, "60"])
    try:
        assert process.pid in processes.descendants(os.getpid())
        assert processes.Process.of(process.pid).alive()
    finally:
        process.kill()
        process.wait()


def test_a_status_with_a_gradient_that_is_no_number_is_still_json(tmp_path: Path) -> None:
    from leviathan_train.launch import activity
    from leviathan_train.ui import values as report

    run = Run(tmp_path)
    session = run.open_session(Launch(cli=True))
    told = {"run": "r", "phase": "training", "pid": 1, "host": "h", "grad_norm": float("nan")}
    session.status_file.write_text(json.dumps(told))
    assert json.loads(report.dumps(report.status(activity.look(run))))["grad_norm"] is None
