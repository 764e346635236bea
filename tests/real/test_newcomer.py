"""An ordinary Axolotl config in a folder of its own: every command that is shown works as shown."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.demo import MakeConfig
from support.driver import LEVIATHAN, PATIENCE, leviathan, start

pytestmark = pytest.mark.train


def shown(output: str) -> list[str]:
    """The commands that stand in an output, each after a colon and two spaces."""
    return re.findall(r"(?:: |   ) (leviathan [^\n]+?)(?= {3,}|$)", output, re.M)


def typed(command: str, cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Type a command that was shown, as it was shown."""
    assert command.startswith("leviathan ")
    return subprocess.run(
        shlex.join([LEVIATHAN]) + command.removeprefix("leviathan"),
        shell=True,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


@pytest.fixture
def project(make_config: MakeConfig, tmp_path: Path) -> Path:
    """A folder whose config names no plugin, and a run below it by a relative path."""
    folder = tmp_path / "my project"
    folder.mkdir()
    made = make_config(folder, plugins=None, save_steps=8, eval_steps=8)
    values: dict[str, Any] = yaml.safe_load(made.read_text())
    made.unlink()
    values |= {"output_dir": "./outputs/my-lora", "dataset_prepared_path": "prepared"}
    (folder / "my lora.yaml").write_text(yaml.safe_dump(values))
    return folder


def test_each_command_that_is_shown_works_as_it_is_typed(
    project: Path, env: dict[str, str], tmp_path: Path
) -> None:
    env = env | {"XDG_STATE_HOME": str(tmp_path / "state")}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    run = project / "outputs/my-lora"
    started = start(project / "my lora.yaml", env=env, run=run)
    started.step(9)

    # While it trains, it is found from any folder: without a name, by its name, by its config.
    assert "my-lora" in leviathan("runs", cwd=elsewhere, env=env, check=0).stdout
    for named in ([], ["my-lora"], ["../my project/my lora.yaml"]):
        page = leviathan("status", *named, cwd=elsewhere, env=env, check=0).stdout
        assert re.search(r"Phase: +(training|saving|evaluating)", page), page
    busy = leviathan("train", "my lora.yaml", cwd=project, env=env)
    assert busy.returncode == 1
    see, stop = shown(busy.stderr)
    assert typed(see, project, env).returncode == 0
    paused = typed(stop, project, env)
    assert paused.returncode == 0, paused.stderr
    status, output = started.finish()
    assert status == 75, output
    assert re.search(r"^Saved checkpoint-8 \(", output, re.M), output

    # Nothing trains any more: what is shown leads on.
    refused = leviathan("pause", cwd=elsewhere, env=env)
    assert refused.returncode == 2 and str(run) in refused.stderr
    (look,) = shown(refused.stderr)
    assert typed(look, elsewhere, env).returncode == 0
    unfinished = leviathan("merge", "my-lora", cwd=project, env=env)
    assert unfinished.returncode == 2
    merges = shown(unfinished.stderr)
    assert len(merges) == 2
    assert typed(merges[0], project, env).returncode == 0
    shutil.rmtree(project / "models")  # or the next merge would ask whether to replace it

    # The resume shows no change that nobody made, and the end shows how to go on.
    (again,) = shown(output)
    finished = typed(again, project, env)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert not re.search(r"^ {3}\S.* -> ", finished.stdout, re.M), "a change that nobody made"
    assert "the last time" in finished.stdout
    (merge,) = shown(finished.stdout)
    merged = typed(merge, project, env)
    assert merged.returncode == 0, merged.stderr
    over = leviathan("train", "my lora.yaml", cwd=project, env=env, check=0)
    use, start_over = shown(over.stdout)
    assert use == merge
    assert typed(f"{start_over} --dry-run", project, env).returncode == 0


def test_what_axolotl_fails_of_is_told_with_its_file(
    make_config: MakeConfig, env: dict[str, str], tmp_path: Path
) -> None:
    """Rows that a plugin of others may read in its own way are not judged before the start."""
    (tmp_path / "mine.py").write_text(
        "from axolotl.integrations.base import BasePlugin\nclass Plugin(BasePlugin): pass\n"
    )
    (tmp_path / "rows.jsonl").write_text('{"question": "a", "answer": "b"}\n' * 30)
    config = make_config(
        tmp_path,
        plugins=["mine.Plugin"],
        datasets=[{"path": "rows.jsonl", "ds_type": "json", "type": "alpaca"}],
        dataset_prepared_path="prepared",
    )
    done = leviathan("train", config, cwd=tmp_path, env=env | {"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1
    first = done.stderr.splitlines()[0]
    assert first == (
        "Error: Training failed: in datasets (rows.jsonl): no column or key 'instruction'"
    )
    assert not (tmp_path / "run").exists()
