"""What a person sees and types in a real terminal."""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pexpect
import pytest

from leviathan_train.checkpoints import store as checkpoints
from leviathan_train.run.folder import Run
from support.demo import MakeConfig
from support.driver import LEVIATHAN, PATIENCE, pause_at

pytestmark = pytest.mark.train


@contextmanager
def terminal(config: Path, *args: str, env: dict[str, str]) -> Iterator[pexpect.spawn[str]]:
    """`leviathan train CONFIG` on a terminal of its own."""
    child = pexpect.spawn(
        LEVIATHAN,
        ["train", str(config), *args],
        cwd=str(config.parent),
        env=env | {"TERM": "xterm-256color"},
        encoding="utf-8",
        timeout=PATIENCE,
        dimensions=(40, 140),
    )
    try:
        yield child
    finally:
        child.close(force=True)


def outcome(child: pexpect.spawn[str]) -> int | None:
    child.expect(pexpect.EOF)
    child.close()
    status: int | None = child.exitstatus
    return status


@pytest.fixture(scope="module")
def paused(
    tmp_path_factory: pytest.TempPathFactory, make_config: MakeConfig, env: dict[str, str]
) -> tuple[Path, int]:
    config = make_config(
        tmp_path_factory.mktemp("terminal"),
        max_steps=2000,
        num_epochs=500,
        logging_steps=1,
        eval_steps=1000,
        save_steps=1000,
    )
    return config, pause_at(config, 5, env=env)


@pytest.fixture
def own(paused: tuple[Path, int], tmp_path: Path) -> tuple[Path, int]:
    """A copy of the paused run."""
    config, step = paused
    text = config.read_text().replace(str(config.parent), str(tmp_path))
    (tmp_path / "config.yaml").write_text(text)
    shutil.copytree(config.parent / "run", tmp_path / "run")
    return tmp_path / "config.yaml", step


def steps_of(config: Path) -> list[int]:
    return [found.step for found in checkpoints.scan(Run(config.parent / "run")) if found.intact]


def test_yes_resumes_and_one_ctrl_c_pauses(own: tuple[Path, int], env: dict[str, str]) -> None:
    config, step = own
    with terminal(config, env=env) as child:
        child.expect(f"FOUND EXISTING CHECKPOINT: step {step}")
        child.expect(f"Resume from checkpoint-{step}\\? \\(yes/no/delete\\): ")
        child.sendline("perhaps")
        child.expect("Please type yes, no or delete")
        child.sendline("yes")
        child.expect("Resuming training...")
        for name in ("adapter weights", "optimizer state", "LR schedule"):
            child.expect(f"✅ Loaded {name}")
        child.expect(f"Step {step + 1}: loss=[0-9.]+ .*learning_rate=[0-9.e+-]+")
        child.expect(f"Resume at step {step}: continuous")
        child.sendintr()
        child.expect(
            r"Saving checkpoint\.\.\. \(Ctrl\+C again: kill it now(, losing \d+ steps?)?\)"
        )
        child.expect("Checkpoint saved to .*/run/checkpoint-([0-9]+)")
        assert isinstance(child.match, re.Match)
        saved = int(child.match[1])
        child.expect("Training stopped gracefully.")
        assert outcome(child) == 75
    assert steps_of(config) == [step, saved]


@pytest.mark.parametrize("answer", ["no", "ctrl-c", "sigterm", "delete and think better of it"])
def test_any_other_answer_changes_nothing(
    own: tuple[Path, int], env: dict[str, str], answer: str
) -> None:
    config, step = own
    run = config.parent / "run"
    before = sorted(path for path in run.rglob("*") if "verified" not in path.parts)
    with terminal(config, env=env) as child:
        child.expect("yes/no/delete")
        if answer == "no":
            child.sendline("no")
            child.expect("Nothing was changed")
            assert "Error" not in str(child.before)
            child.expect("--resume never")
        elif answer == "ctrl-c":
            child.sendintr()
        elif answer == "sigterm":
            child.kill(signal.SIGTERM)
            child.expect("Nothing was changed")
        else:
            child.sendline("delete")
            child.expect(f"deletes 1 checkpoint: {step} steps.*[0-9]K")
            child.sendline(str(step + 1))
            child.expect("Nothing was deleted.")
            child.expect("yes/no/delete")
            child.sendline("n")
        assert outcome(child) == 130
    assert before == sorted(path for path in run.rglob("*") if "verified" not in path.parts)


def test_delete_asks_for_the_step_and_starts_over(
    own: tuple[Path, int], env: dict[str, str]
) -> None:
    config, step = own
    with terminal(config, env=env) as child:
        child.expect("yes/no/delete")
        child.sendline("delete")
        child.expect("Type the step number")
        child.sendline(str(step))
        child.expect("Deleted 1 checkpoint\\.")
        child.expect("Step 1: loss=")
        child.kill(signal.SIGINT)
        child.kill(signal.SIGINT)
        assert outcome(child) in (75, 130)
    assert step not in steps_of(config)


def test_a_damaged_newest_checkpoint_is_named_and_the_next_offered(
    own: tuple[Path, int], env: dict[str, str]
) -> None:
    config, step = own
    newer = config.parent / "run" / f"checkpoint-{step + 1}"
    shutil.copytree(config.parent / "run" / f"checkpoint-{step}", newer)
    with terminal(config, "--dry-run", env=env) as child:
        child.expect(f"checkpoint-{step + 1} is not intact: ")
        child.expect(f"FOUND EXISTING CHECKPOINT: step {step}")
        assert outcome(child) == 0
    with terminal(config, "--resume", str(newer), env=env) as child:
        child.expect("is not intact")
        assert outcome(child) == 2
