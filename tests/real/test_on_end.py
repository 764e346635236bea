"""`--on-end` on real trainings, from real terminals."""

from __future__ import annotations

from pathlib import Path

import pexpect
import pytest

from leviathan_train.system.processes import wait_until
from support.demo import MakeConfig
from support.driver import LEVIATHAN, PATIENCE, start, train

pytestmark = pytest.mark.train

TELL = 'echo "$LEVIATHAN_RUN $LEVIATHAN_STATUS $LEVIATHAN_END $LEVIATHAN_STEP" >> told'
ENDLESS = {"max_steps": 20_000, "num_epochs": 5000, "save_steps": 10_000, "eval_steps": 10_000}


def test_a_second_ctrl_c_kills_the_training_and_not_the_command(
    make_config: MakeConfig, env: dict[str, str], tmp_path: Path
) -> None:
    config = make_config(tmp_path, **ENDLESS | {"logging_steps": 1})
    slowly = f"sleep 2; {TELL}"
    arguments = ["train", str(config), "--on-end", slowly]
    child = pexpect.spawn(
        LEVIATHAN, arguments, cwd=str(tmp_path), env=env, encoding="utf-8", timeout=PATIENCE
    )
    child.expect("Step 3: loss=")
    for _ in range(4):  # the later ones come while the command runs, or just before
        child.sendintr()
    child.expect(pexpect.EOF)
    child.close()
    assert wait_until((tmp_path / "told").exists, 30)
    (line,) = (tmp_path / "told").read_text().splitlines()
    assert line.split()[:3] in (["run", "130", "killed"], ["run", "75", "paused"])


def test_it_is_run_once_for_all_restarts(
    make_config: MakeConfig, env: dict[str, str], tmp_path: Path
) -> None:
    config = make_config(tmp_path)
    (tmp_path / "run").mkdir()
    options = ["--max-restarts", "1", "--on-end", TELL, "--", "--config_file", "gone.yaml"]
    output = train(config, *options, env=env, expect=1)
    assert "Restart 1 of 1" in output
    assert (tmp_path / "told").read_text() == "run 1 crashed \n"


def test_a_wrong_argument_of_the_launcher_is_wrong_use_and_not_tried_again(
    make_config: MakeConfig, env: dict[str, str], tmp_path: Path
) -> None:
    config = make_config(tmp_path)
    output = train(config, "--max-restarts", "1", "--", "--no_such_option", env=env, expect=2)
    assert "accelerate refuses what stands after --: unrecognized arguments" in output
    assert "Restart 1" not in output


def test_a_pause_is_told_with_its_step_and_a_dry_run_tells_nothing(
    make_config: MakeConfig, env: dict[str, str], tmp_path: Path
) -> None:
    config = make_config(tmp_path, **ENDLESS)
    train(config, "--dry-run", "--on-end", TELL, env=env)
    assert not (tmp_path / "told").exists()
    started = start(config, "--on-end", f"{TELL}; exit 7", env=env)
    started.step(3)
    started.signal()
    status, output = started.finish()
    assert status == 75
    assert "--on-end failed with exit status 7." in output
    (checkpoint,) = (tmp_path / "run").glob("checkpoint-*")
    assert (tmp_path / "told").read_text() == f"run 75 paused {checkpoint.name[11:]}\n"
    assert f"--on-end '{TELL}" in output  # the command to resume with keeps it
