"""Two machines that train together: one command is typed on each, the first one decides."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from leviathan_train.checkpoints import store
from leviathan_train.run.folder import Run
from support.demo import MakeConfig
from support.driver import differences, leviathan, train, training_state
from support.nodes import Nodes, StartedThere, two_nodes

pytestmark = [pytest.mark.train]

LONG: dict[str, Any] = {
    "max_memory": {"cpu": "8GiB"},
    "max_steps": 4000,
    "num_epochs": 900,
    "eval_steps": None,
    "val_set_size": 0,
    "save_steps": 1000,
    "logging_steps": 1,
}


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    with two_nodes() as made:
        yield made


def both(nodes: Nodes, config: Path, *args: str, env: dict[str, str]) -> list[StartedThere]:
    """The second one is started first, and has to wait."""
    second = nodes.start(1, config, *args, env=env)
    return [nodes.start(0, config, *args, env=env), second]


def ends(started: list[StartedThere]) -> tuple[list[int], list[str]]:
    found = [one.finish() for one in started]
    return [status for status, _ in found], [output for _, output in found]


def sessions(run: Path) -> list[dict[str, Any]]:
    """The recorded end of each session."""
    folders = sorted((run / ".leviathan/sessions").iterdir())
    return [json.loads((folder / "end.json").read_text()) for folder in folders]


def intact(run: Path) -> list[int]:
    return [found.step for found in store.scan(Run(run), store.Read.ALL) if found.intact]


def without_exit_barrier(log: str) -> str:
    """A log without what torch's agent says where the first machine, which holds the store, has
    left it a moment sooner: both are at their ends then (elastic/agent/server/api.py)."""
    record = re.search(r"^(E\d+ [^\]]+\]) Error waiting on exit barrier", log, re.MULTILINE)
    if not record:
        return log
    return "".join(line for line in log.splitlines(True) if not line.startswith(record[1]))


def test_a_pause_on_either_machine_stops_both_and_both_go_on_from_one_checkpoint(
    nodes: Nodes, make_config: MakeConfig, env_of_ranks: dict[str, str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    config = make_config(tmp_path, **LONG)
    started = both(nodes, config, env=env_of_ranks)
    started[0].step(3)
    status = started[0].status()
    started[1].signal()
    statuses, outputs = ends(started)
    assert statuses == [75, 75], outputs
    (end,) = sessions(run)
    step = end["step"]
    assert end["kind"] == "paused"
    assert intact(run) == [step]
    assert status["host"] in {"node0", os.uname().nodename}
    assert all(f"Checkpoint saved to {run}/checkpoint-{step}" in output for output in outputs)
    checkpoint = run / f"checkpoint-{step}"
    assert len(list(checkpoint.glob("rng_state_*.pth"))) == 2
    assert "--machine_rank 1" in outputs[0]  # what to type on the other one
    logs = sorted(path.name for path in (run / "logs").iterdir())
    assert [name.endswith(".machine1.log") for name in logs] == [False, True]

    resumed = both(nodes, config, env=env_of_ranks)
    resumed[0].step(step + 2)
    resumed[0].signal(signal.SIGTERM)
    statuses, outputs = ends(resumed)
    assert statuses == [75, 75], outputs
    assert "✅ Loaded optimizer state" in outputs[0]
    assert "✅ Same rows in the same order" in outputs[1]
    assert len(sessions(run)) == 2
    assert len(intact(run)) == 2
    assert not (run / "superseded").exists()
    log = max((run / "logs").glob("*.machine1.log")).read_text()
    assert "Traceback" not in without_exit_barrier(log)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["pause", "deadline", "save", "stop --now"])
def test_what_is_asked_on_the_first_machine_holds_on_both(
    nodes: Nodes, make_config: MakeConfig, env_of_ranks: dict[str, str], tmp_path: Path, way: str
) -> None:
    run = tmp_path / "run"
    config = make_config(tmp_path, **LONG | {"save_steps": 5})
    options = ["--for", "200s"] if way == "deadline" else []
    started = both(nodes, config, *options, env=env_of_ranks)
    started[0].step(6)
    if way != "deadline":
        command = leviathan_there(nodes, 0, way.split(), tmp_path, env_of_ranks)
        assert "checkpoint-" in command or way == "stop --now"
    if way == "save":
        started[1].signal()
    statuses, outputs = ends(started)
    assert statuses == [75, 75], outputs
    (end,) = sessions(run)
    assert end["kind"] == ("killed" if way == "stop --now" else "paused")
    assert intact(run)


def leviathan_there(
    nodes: Nodes, number: int, words: list[str], cwd: Path, env: dict[str, str]
) -> str:
    from support.driver import LEVIATHAN

    first, *rest = words
    return nodes.nodes[number].run(LEVIATHAN, first, str(cwd / "run"), *rest, cwd=cwd, env=env)


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_a_rank_that_dies_ends_all_and_a_restart_begins_on_both(
    nodes: Nodes,
    make_config: MakeConfig,
    env_of_ranks: dict[str, str],
    tmp_path: Path,
    number: int,
) -> None:
    run = tmp_path / "run"
    config = make_config(tmp_path, **LONG | {"save_steps": 5})
    started = both(nodes, config, "--max-restarts", "2", env=env_of_ranks)
    started[0].step(7)
    os.kill(rank_of(started[number]), signal.SIGKILL)
    again = Run(run)
    deadline = time.monotonic() + 120
    while len(again.sessions()) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    fresh = StartedThere(started[0].process, run, {again.sessions()[0].path})
    fresh.step(8)
    fresh.signal()
    statuses, outputs = ends(started)
    assert statuses == [75, 75], outputs
    crash, end = sessions(run)
    assert crash["kind"] == "crashed"
    assert end["kind"] == "paused"
    assert all("Restart 1 of 2" in output for output in outputs)


def rank_of(started: StartedThere) -> int:
    """The pid, as seen from here, of the first rank on the machine of a command line."""
    import psutil

    children = psutil.Process(started.command_pid).children(recursive=True)
    ranks = [one for one in children if "axolotl.cli.train" in one.cmdline()]
    return min(one.pid for one in ranks if "accelerate.commands.launch" not in one.cmdline())


@pytest.mark.slow
def test_a_machine_without_power_is_missed_within_minutes(
    nodes: Nodes, make_config: MakeConfig, env_of_ranks: dict[str, str], tmp_path: Path
) -> None:
    """No connection breaks: the packets just stop."""
    if nodes.nodes[1].holder is None:
        pytest.skip("needs network namespaces")
    config = make_config(tmp_path, **LONG | {"save_steps": 5})
    started = both(nodes, config, env=env_of_ranks)
    started[0].step(7)
    nodes.nodes[1].unplug()
    nodes.nodes[1].power_off()
    began = time.monotonic()
    status, output = started[0].finish()
    assert status == 1, output
    assert time.monotonic() - began < 240
    (end,) = sessions(tmp_path / "run")
    assert "machine 1 gave no sign of life" in end["why"]
    started[1].process.communicate()


@pytest.mark.slow
def test_machines_that_share_no_folder_are_told_so(
    nodes: Nodes, make_config: MakeConfig, env_of_ranks: dict[str, str], tmp_path: Path
) -> None:
    if nodes.nodes[1].holder is None:
        pytest.skip("needs mount namespaces")
    config = make_config(tmp_path, **LONG)
    (tmp_path / "run").mkdir()
    nodes.nodes[1].run("mount", "-t", "tmpfs", "none", str(tmp_path / "run"))
    started = both(nodes, config, env=env_of_ranks)
    status, output = started[1].finish()
    assert status == 2, output
    assert "but not in" in output
    started[0].signal()
    assert started[0].finish()[0] == 130


@pytest.mark.slow
def test_two_machines_end_as_two_ranks_on_one_do(
    nodes: Nodes, make_config: MakeConfig, env_of_ranks: dict[str, str], tmp_path: Path
) -> None:
    """From one checkpoint: paused and resumed on two machines, or straight on one."""
    settings = LONG | {"max_steps": 14, "save_steps": 4, "save_total_limit": 9}
    (tmp_path / "one").mkdir()
    (tmp_path / "two/run").mkdir(parents=True)
    one = make_config(tmp_path / "one", **settings)
    train(one, "--", "--multi_gpu", "--num_processes", "2", env=env_of_ranks)
    shutil.copytree(tmp_path / "one/run/checkpoint-4", tmp_path / "two/run/checkpoint-4")
    two = make_config(tmp_path / "two", **settings)
    started = both(nodes, two, env=env_of_ranks)
    started[0].step(7)
    started[0].signal()
    assert ends(started)[0] == [75, 75]
    statuses, outputs = ends(both(nodes, two, env=env_of_ranks))
    assert statuses == [0, 0], outputs
    ended = [tmp_path / name / "run/checkpoint-14" for name in ("one", "two")]
    straight, resumed = (training_state(path, ranks=2) for path in ended)
    assert not differences(straight, resumed)
    again = ends(both(nodes, two, env=env_of_ranks))
    assert again[0] == [0, 0]
    assert all("already finished" in output for output in again[1])
    leviathan("checkpoints", "verify", "run", cwd=tmp_path / "two", env=env_of_ranks, check=0)
