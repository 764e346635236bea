"""Bad input: one clear line, what to type next, exit 2, at once, and nothing lost."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support import shapes
from support.demo import MakeConfig
from support.driver import LEVIATHAN, leviathan


def broken_yaml(folder: Path) -> None:
    (folder / "config.yaml").write_text("base_model: x\ndatasets: [\n  - a: b\noutput_dir: run\n")


def list_yaml(folder: Path) -> None:
    (folder / "config.yaml").write_text("- a\n- b\n")


def no_config(folder: Path) -> None:
    (folder / "config.yaml").unlink()


@pytest.mark.parametrize(
    ("spoil", "overrides", "args", "told"),
    [
        (no_config, {}, [], "No config at"),
        (broken_yaml, {}, [], "line 3, column"),
        (list_yaml, {}, [], "is not a mapping"),
        (None, {"output_dir": None}, [], "output_dir is missing"),
        (None, {"base_model": "./nowhere"}, [], "base_model ./nowhere does not exist"),
        (None, {"base_model": "org/unknown"}, [], "neither a folder nor in the hub's cache"),
        (None, {"base_model": None}, [], "base_model is missing"),
        (None, {"datasets": [{"path": "./no.jsonl", "type": "alpaca"}]}, [], "no.jsonl does not"),
        (None, {}, ["--resume", "77"], "no checkpoint of step 77"),
        (None, {}, ["--resume", "nonsense"], "No checkpoint 'nonsense'"),
        (None, {}, ["--resume", "best"], "no checkpoint"),
        (None, {}, ["--set", "learning_rate"], "not KEY=VALUE"),
        (None, {}, ["--set", "lora-r=16"], "Did you mean  --set lora_r=16?"),
        (None, {}, ["--set", f"output_dir=./{'x' * 300}"], "Choose a shorter name."),
        (None, {"output_dir": ["a"]}, [], "output_dir is not the name of a folder"),
        (None, {}, ["--grace", "5m"], "'5m' is not a number of seconds"),
        (None, {}, ["--grace", "inf"], "'inf' is not a number of seconds"),
        (None, {}, ["--max-restarts", "two"], "'two' is not a valid whole number"),
        (None, {}, ["--set"], "See:  leviathan train --help"),
        (None, {}, ["--dry-run", "--", "--num_process", "2"], "accelerate refuses what stands"),
        (None, {}, ["--requeue"], "docs/slurm.sbatch"),
        (None, {}, ["--until", "25:00"], "not a time of day"),
        (None, {}, ["--for", "soon"], "not a duration"),
        (None, {}, ["--for", ""], "not a duration"),
        (None, {}, ["--window", "20"], "--window '20' is not a time window"),
        (None, {}, ["--nonsense"], "--nonsense"),
        (None, {"resume_from_checkpoint": "gone/checkpoint-3"}, [], "does not exist"),
        (None, {"learning_rat": 0.1}, [], "learning_rate"),
        (None, {}, ["--until", "08:00", "--for", "8h"], "cannot be combined"),
        (None, {}, ["b.yaml"], "unexpected extra argument (b.yaml)"),
        (None, {}, ["--num_processes", "2"], "No such option '--num_processes'"),
    ],
)
def test_wrong_use_is_told_in_a_line(
    make_config: MakeConfig,
    env: dict[str, str],
    tmp_path: Path,
    spoil: Callable[[Path], None] | None,
    overrides: dict[str, Any],
    args: list[str],
    told: str,
) -> None:
    config = make_config(tmp_path, **overrides)
    if spoil:
        spoil(tmp_path)
    done = leviathan("train", config, *args, cwd=tmp_path, env=env)
    assert done.returncode == 2, done.stdout + done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 2
    assert not (tmp_path / "run").exists()


def test_a_missing_accelerate_is_told(
    make_config: MakeConfig, env: dict[str, str], tmp_path: Path
) -> None:
    config = make_config(tmp_path)
    code = (
        "import importlib.util as u, sys; find = u.find_spec;"
        "u.find_spec = lambda n, *a: None if n == 'accelerate' else find(n, *a);"
        "from leviathan_train.cli import main; main(['train', sys.argv[1]])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(config)], env=env, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "accelerate is not installed" in done.stderr


@pytest.mark.parametrize("command", ["pause", "save", "stop", "status", "history"])
def test_a_command_without_a_run_says_what_to_type(
    env: dict[str, str], tmp_path: Path, command: str
) -> None:
    done = leviathan(command, cwd=tmp_path, env=env | {"XDG_STATE_HOME": str(tmp_path / "state")})
    assert done.returncode == 2
    assert "leviathan train CONFIG" in done.stderr


def test_a_name_that_is_nearly_right_is_guessed(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "work/training/demo_cpu/checkpoint-1").mkdir(parents=True)
    done = leviathan("status", "demo_gpu", cwd=tmp_path, env=env)
    assert done.returncode == 2
    assert "Did you mean demo_cpu?" in done.stderr


def test_names_that_begin_with_a_dash_are_no_options(
    make_config: MakeConfig, env: dict[str, str], tmp_path: Path
) -> None:
    make_config(tmp_path, output_dir="./-dash").rename(tmp_path / "-dash.yaml")
    done = leviathan("train", "./-dash.yaml", "--dry-run", cwd=tmp_path, env=env, check=0)
    assert "-m axolotl.cli.train ./-dash.yaml" in done.stdout
    shapes.make(tmp_path / "-dash", 10, sealed=True)
    done = leviathan("merge", "./-dash.yaml", cwd=tmp_path, env=env, check=2)
    assert "leviathan merge ./-dash --checkpoint latest" in done.stderr


def test_a_locale_that_cannot_write_a_name_is_told(
    make_config: MakeConfig, env: dict[str, str], tmp_path: Path
) -> None:
    config = make_config(tmp_path, output_dir="./l\u00e4uf")
    plain = env | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = leviathan("train", config, "--dry-run", cwd=tmp_path, env=plain, check=2)
    assert "export LC_ALL=C.UTF-8" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
def test_a_closed_stream_is_no_fault(
    make_config: MakeConfig, env: dict[str, str], tmp_path: Path, closed: str
) -> None:
    config = make_config(tmp_path)
    command = f'"{LEVIATHAN}" train "{config}" --dry-run {closed}'
    done = subprocess.run(["sh", "-c", command], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_terminal_that_knows_no_unicode_still_gets_its_lines(
    make_config: MakeConfig, env: dict[str, str], tmp_path: Path
) -> None:
    shapes.make(tmp_path / "run", 10)
    latin = env | {"PYTHONIOENCODING": "latin-1"}
    done = leviathan("checkpoints", "latest", "run", cwd=tmp_path, env=latin)
    assert done.returncode == 0, done.stderr
    assert "checkpoint-10" in done.stdout
