"""A run made by version 0.1.0 is read, resumed and finished by this one.

`tests/data/first_house` is such a run, paused at step 6 of 16 on axolotl 0.19.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from support.demo import ROOT
from support.driver import leviathan

DATA = ROOT / "tests/data/first_house"
DATA_MTIME = 1_700_000_000
LOGGED = {8: 6.2716, 10: 6.2548, 12: 6.1776, 14: 6.0939, 16: 6.1806}
"""Losses that version 0.1.0 itself logged when it resumed this run, on axolotl 0.19."""


@pytest.fixture
def house(tmp_path: Path, env: dict[str, str]) -> Path:
    """A folder with the old run, its config, its model and its rows."""
    script = str(ROOT / "scripts/make_demo.py")
    make = [sys.executable, script, "--out", str(tmp_path / "demo"), "--rows", "160"]
    subprocess.run(make, check=True, env=env)
    os.utime(tmp_path / "demo/data.jsonl", (DATA_MTIME, DATA_MTIME))
    shutil.copy(DATA / "model/config.json", tmp_path / "demo/model")  # tells who wrote it
    shutil.copytree(DATA / "run", tmp_path / "work/training/first_house")
    shutil.copy(DATA / "config.yaml", tmp_path)
    return tmp_path


def test_an_old_run_is_read(house: Path, env: dict[str, str]) -> None:
    def ask(*words: str) -> dict[str, Any]:
        done = leviathan(*words, "--json", cwd=house, env=env, check=0)
        value: dict[str, Any] = json.loads(done.stdout)
        return value

    (checkpoint,) = ask("checkpoints", "list")["checkpoints"]
    assert (checkpoint["step"], checkpoint["state"]) == (6, "intact")
    assert ask("checkpoints", "verify")["damaged"] == 0
    (session,) = ask("history")["sessions"]
    assert session["end"] == "paused"
    assert (session["first_step"], session["last_step"]) == (0, 6)
    assert (session["first_loss"], session["last_loss"]) == (6.481, 6.2131)
    status = ask("status")
    assert (status["phase"], status["step"], status["max_steps"]) == ("paused", 6, 16)


@pytest.mark.axolotl
@pytest.mark.train
def test_an_old_run_is_resumed_and_finished(house: Path, env: dict[str, str]) -> None:
    upgraded = not version("axolotl").startswith("0.19.")
    if upgraded:
        refused = leviathan("train", "config.yaml", cwd=house, env=env, check=2)
        assert "Add --yes to resume, or install what it was made with." in refused.stderr
    done = leviathan("train", "config.yaml", "--yes", cwd=house, env=env, check=0)
    assert ("version of axolotl: 0.19.0 -> " in done.stdout) == upgraded
    assert "FOUND EXISTING CHECKPOINT: step 6" in done.stdout
    assert "weights of base_model: not recorded" in done.stdout
    assert "✅ Loaded optimizer state" in done.stdout
    assert "Resume at step 6: continuous" in done.stdout
    run = house / "work/training/first_house"
    state = json.loads((run / "checkpoint-16/trainer_state.json").read_text())
    losses = {e["step"]: e["loss"] for e in state["log_history"] if "loss" in e and e["step"] > 6}
    # Since 0.21, gradient accumulation averages over tokens: the same rows, other numbers.
    assert losses == pytest.approx(LOGGED, abs=0.1 if upgraded else 2e-4)
    history = json.loads(leviathan("history", "--json", cwd=house, env=env, check=0).stdout)
    assert [session["end"] for session in history["sessions"]] == ["paused", "finished"]
