"""The shell scripts, with a command in leviathan's place that tells how it was called."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from leviathan_train.run.folder import Run
from leviathan_train.run.records import End, Ending, Launch, Request, RequestKind
from support.bases import QWEN3_8B

ROOT = Path(__file__).resolve().parents[2]
ODD = 'it\'s a\n"run" $HOME'
SHELLS = [
    shell if shutil.which(shell) else pytest.param(shell, marks=pytest.mark.skip("not here"))
    for shell in ("bash", "zsh")
]

Call = tuple[str, list[str]]  # working directory, arguments
Source = Callable[..., Call]


@pytest.fixture
def make_demo(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("make_demo")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A copy of the scripts beside a `.venv/bin/leviathan` that prints its call as JSON."""
    root = tmp_path / f"repo {ODD}"
    shutil.copytree(ROOT / "scripts", root / "scripts")
    command = root / ".venv" / "bin" / "leviathan"
    command.parent.mkdir(parents=True)
    command.write_text(
        "#!/usr/bin/env python3\n"
        "import json, os, sys\n"
        "print(json.dumps([os.getcwd(), sys.argv[1:]]))\n"
    )
    command.chmod(0o755)
    return root


@pytest.fixture(params=SHELLS)
def source(request: pytest.FixtureRequest, repository: Path, tmp_path: Path) -> Source:
    """Source checkpoint_utils.sh from `tmp_path`, and call one of its functions."""

    def call(*words: str) -> Call:
        script = 'set -eu; . "$1"; shift; "$@"'
        utils = os.path.relpath(repository / "scripts" / "checkpoint_utils.sh", tmp_path)
        shell = [request.param, "-c", script, request.param, utils, *words]
        done = subprocess.run(shell, cwd=tmp_path, stdout=subprocess.PIPE, check=True)
        folder, arguments = json.loads(done.stdout)
        return folder, arguments

    return call


def test_a_function_without_a_run_leaves_the_choice_to_the_command(
    source: Source, repository: Path
) -> None:
    assert source("list_checkpoints") == (str(repository), ["checkpoints", "list"])
    assert source("latest_checkpoint") == (str(repository), ["checkpoints", "latest"])
    assert source("force_checkpoint") == (str(repository), ["save"])


def test_a_run_that_is_not_in_the_current_folder_is_looked_for_in_the_repository(
    source: Source, repository: Path
) -> None:
    called = source("cleanup_checkpoints", "work/training/demo", "2")

    words = ["checkpoints", "cleanup", "--keep", "2", "--yes", "--", "work/training/demo"]
    assert called == (str(repository), words)


@pytest.mark.parametrize("name", ["demo", "-demo", ODD, ODD + "\n"])
def test_a_run_in_the_current_folder_is_found_whatever_its_name(
    source: Source, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).mkdir()

    _, words = source("list_checkpoints", name)

    assert words == ["checkpoints", "list", "--", str(tmp_path / name)]


def test_an_export_goes_to_the_current_folder(source: Source, tmp_path: Path) -> None:
    _, words = source("export_checkpoint_info", "demo", f"{ODD}.json")

    output = str(tmp_path / f"{ODD}.json")
    assert words == ["checkpoints", "export", "--output", output, "--", "demo"]


@pytest.mark.parametrize("run", ["10pct", "full"])
def test_a_training_script_passes_its_arguments_on_from_any_folder(
    repository: Path, tmp_path: Path, run: str
) -> None:
    link = tmp_path / "link"
    link.symlink_to(repository / "scripts" / f"train_{run}_a4000.sh")

    done = subprocess.run([link, "--for", ODD], cwd="/", stdout=subprocess.PIPE, check=True)

    config = f"configs/leviathan_{run}_a4000.yaml"
    assert json.loads(done.stdout) == [str(repository), ["train", config, "--for", ODD]]
    assert (ROOT / config).is_file()


def test_the_quickstart_tells_each_part_and_how_long_it_took(repository: Path) -> None:
    stand_ins = {
        "scripts/make_venv.sh": "",
        ".venv/bin/python": f'[[ $1 == scripts/* ]] || exec "{sys.executable}" "$@"',
    }
    for name, text in stand_ins.items():
        (repository / name).write_text(f"#!/bin/bash\n{text}\n")
        (repository / name).chmod(0o755)

    script = repository / "scripts" / "quickstart.sh"
    done = subprocess.run([script], stdout=subprocess.PIPE, check=True, timeout=60, text=True)

    # Of each part its title, its commands, and its seconds.
    parts = done.stdout.strip().split("\n\n")
    assert [part[:2] for part in parts] == ["1.", "2.", "3.", "4.", "5.", "Do"]
    for part in parts[:-1]:
        assert re.search(r"\n   \d+ s$", part), part
    for part in parts[1:-1]:
        assert "\n$ " in part, part
    assert re.match(r"Done in \d+ s: models/demo_cpu-merged ", parts[-1])


def test_without_an_installation_a_script_says_what_to_run(repository: Path) -> None:
    shutil.rmtree(repository / ".venv")
    bare = {"PATH": "/usr/bin:/bin"}
    if shutil.which("leviathan", path=bare["PATH"]):
        pytest.skip("leviathan is installed for the whole machine")

    script = repository / "scripts" / "train_10pct_a4000.sh"
    done = subprocess.run([script], env=bare, stderr=subprocess.PIPE, check=False)

    assert done.returncode == 2
    assert done.stderr.decode().endswith("/scripts/quickstart.sh once\n")


def test_the_demo_data_is_the_same_for_the_same_seed(make_demo: ModuleType) -> None:
    rows = make_demo.make_rows(300, seed=1)

    assert rows == make_demo.make_rows(300, seed=1)
    assert rows != make_demo.make_rows(300, seed=2)
    assert len({json.dumps(row) for row in rows}) == 300


def test_demo_data_that_is_there_is_kept(make_demo: ModuleType, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text("mine")

    assert not make_demo.make_data(data, 10, seed=0)
    assert data.read_text() == "mine"


def test_a_gpu_is_measured_with_the_exact_shape_of_the_shipped_base(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    shape = importlib.import_module("measure_gpu").SHAPES["qwen3-8b"]
    assert shape.items() >= {k: QWEN3_8B[k] for k in QWEN3_8B.keys() & shape.keys()}.items()
    assert {"hidden_size", "num_hidden_layers", "head_dim", "vocab_size"} <= shape.keys()


def test_measured_times_of_a_pause_begin_with_its_request(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    measure = importlib.import_module("measure_gpu")
    session = Run(tmp_path / "run").open_session(Launch(cli=True))
    session.requests.put(Request(RequestKind.PAUSE, "a test", at=1000.0))
    assert measure.pause_seconds(tmp_path / "run") == []  # it has not ended
    session.close(End(Ending.PAUSED, at=1002.5))
    assert measure.pause_seconds(tmp_path / "run") == [2.5]
