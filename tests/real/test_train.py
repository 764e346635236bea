"""`leviathan train` on the real Axolotl: signals, outcomes, and what is left on disk."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from leviathan_train.checkpoints import store as checkpoints
from leviathan_train.run.folder import Run
from leviathan_train.system import readahead
from support.demo import MakeConfig
from support.driver import LEVIATHAN, axolotls_of, leviathan, pause_at, processes_of, start, train

pytestmark = pytest.mark.train


def intact_steps(run: Path) -> list[int]:
    return [
        found.step for found in checkpoints.scan(Run(run), checkpoints.Read.ALL) if found.intact
    ]


def step_of_newest(run: Path) -> int:
    return checkpoints.folders(Run(run))[-1][0]


@pytest.fixture(scope="module")
def paused(
    tmp_path_factory: pytest.TempPathFactory, make_config: MakeConfig, env: dict[str, str]
) -> Path:
    """The config of a run that was paused by Ctrl+C."""
    config = make_config(tmp_path_factory.mktemp("paused"), max_steps=400, num_epochs=100)
    step = pause_at(config, 7, env=env)
    assert intact_steps(config.parent / "run")[-1] == step
    return config


@pytest.mark.axolotl
def test_a_pause_writes_no_final_adapter(paused: Path) -> None:
    assert not (paused.parent / "run/adapter_model.safetensors").exists()
    assert not (paused.parent / "run/checkpoint-final").exists()


@pytest.mark.axolotl
def test_what_the_start_read_is_noted_for_the_next_one(paused: Path) -> None:
    noted = readahead.noted_file()
    session = Run(paused.parent / "run").session()
    assert session and session.begin
    assert noted.stat().st_mtime >= session.begin.at
    parts = json.loads(noted.read_text())
    assert [path for path in parts if "/axolotl/" in path and not parts[path]]
    assert [path for path in parts if path.endswith("/libtorch_cpu.so") and parts[path]]


@pytest.mark.axolotl
def test_the_log_gives_losses_and_rates_to_grep_and_nothing_else(paused: Path) -> None:
    (log,) = (paused.parent / "run/logs").glob("training_*.log")
    for word in ("loss", "learning_rate"):
        lines = [line for line in log.read_text().splitlines() if word in line]
        assert lines
        assert all(line.startswith("Step ") for line in lines), lines


def test_a_paused_run_is_offered_and_a_dry_run_changes_nothing(
    paused: Path, env: dict[str, str]
) -> None:
    run = paused.parent / "run"
    before = sorted(run.rglob("*"))
    done = leviathan("train", paused, "--dry-run", cwd=paused.parent, env=env, check=0)
    step = intact_steps(run)[-1]
    assert f"--resume_from_checkpoint={run}/checkpoint-{step}" in done.stdout
    after = [path for path in sorted(run.rglob("*")) if "verified" not in path.parts]
    assert after == [path for path in before if "verified" not in path.parts]


@pytest.mark.parametrize(
    "who", ["cli", "launcher", pytest.param("rank0", marks=pytest.mark.axolotl), "all"]
)
def test_sigterm_is_a_pause_whoever_gets_it(
    make_config: MakeConfig, env: dict[str, str], tmp_path: Path, who: str
) -> None:
    config = make_config(tmp_path, max_steps=400, num_epochs=100)
    started = start(config, env=env)
    started.step(3)
    if who == "cli":
        started.signal(signal.SIGTERM)
    else:
        pids = axolotls_of(tmp_path / "run") if who == "all" else [started.pid(who)]
        assert len(pids) >= (3 if who == "all" else 1)  # launcher, trainer, a data worker
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
    status, output = started.finish()
    assert status == 75, output
    assert "Training stopped gracefully." in output
    assert len(intact_steps(tmp_path / "run")) == 1
    assert "Traceback" not in next((tmp_path / "run/logs").iterdir()).read_text()
    assert not processes_of(tmp_path / "run")


def test_a_dead_command_line_leaves_a_training_that_can_be_paused(
    make_config: MakeConfig, env: dict[str, str], tmp_path: Path
) -> None:
    config = make_config(tmp_path, max_steps=2000, num_epochs=500)
    started = start(config, env=env)
    started.step(3)
    started.kill()
    started.step(started.status()["step"] + 3)
    told = leviathan("status", "run", "--json", cwd=tmp_path, env=env, check=0)
    assert json.loads(told.stdout)["phase"] in {"training", "saving", "evaluating"}
    refused = leviathan("train", config, cwd=tmp_path, env=env)
    assert refused.returncode == 1
    assert "already training" in refused.stderr
    saved = leviathan("save", "run", cwd=tmp_path, env=env, check=0)
    assert "Checkpoint saved to run/checkpoint-" in saved.stdout
    done = leviathan("pause", "run", cwd=tmp_path, env=env, check=0)
    assert "Checkpoint saved to run/checkpoint-" in done.stdout
    assert not processes_of(tmp_path / "run")
    assert intact_steps(tmp_path / "run")
    resumed = start(config, env=env)
    resumed.step(step_of_newest(tmp_path / "run") + 1)
    resumed.signal(signal.SIGHUP)  # a closed terminal is no reason to stop
    resumed.step(resumed.status()["step"] + 3)
    resumed.signal()
    resumed.signal()  # twice: ended at once
    assert resumed.finish()[0] == 75
    assert not processes_of(tmp_path / "run")


@pytest.mark.slow
def test_another_host_reaches_a_run_through_the_shared_folder(
    make_config: MakeConfig, env: dict[str, str], tmp_path: Path
) -> None:
    config = make_config(tmp_path, max_steps=2000, num_epochs=500)

    def elsewhere(*args: str) -> subprocess.CompletedProcess[str]:
        script = 'hostname elsewhere && exec "$0" "$@"'
        return subprocess.run(
            ["unshare", "--uts", "sh", "-c", script, LEVIATHAN, *args],
            cwd=tmp_path,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )

    if elsewhere("--version").returncode:
        pytest.skip("no right to take another host name")
    started = start(config, env=env)
    started.step(3)
    seen = json.loads(elsewhere("status", "run", "--json").stdout)
    assert seen["training"] and seen["phase"] in {"training", "evaluating", "saving"}
    refused = elsewhere("train", str(config))
    assert refused.returncode == 1
    assert socket.gethostname() in refused.stderr
    asked = elsewhere("pause", "run")
    assert asked.returncode == 0
    assert f"trains on {socket.gethostname()}. The request is left there" in asked.stdout
    assert started.finish()[0] == 75
    assert json.loads(elsewhere("status", "run", "--json").stdout)["phase"] == "paused"


@pytest.mark.parametrize("way", ["ctrl-c", "stop --now"])
def test_a_trainer_that_hangs_ends_within_its_grace(
    make_config: MakeConfig, env: dict[str, str], tmp_path: Path, way: str
) -> None:
    config = make_config(tmp_path, max_steps=2000, num_epochs=500, save_steps=5)
    started = start(config, "--grace", "3", env=env)
    started.wait(lambda s: bool(s.get("last_checkpoint")) and s["phase"] == "training")
    os.kill(started.pid("rank0"), signal.SIGSTOP)
    began = time.monotonic()
    if way == "ctrl-c":
        started.signal()
    else:
        leviathan("stop", "run", "--now", cwd=tmp_path, env=env, check=0)
    status, output = started.finish()
    assert status == 75, output
    assert time.monotonic() - began < 40
    assert "Killed:" in output
    assert not processes_of(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["without the GIL", "with the GIL"])
def test_a_trainer_in_an_endless_c_call_ends_within_its_grace(
    make_config: MakeConfig, env: dict[str, str], tmp_path: Path, how: str
) -> None:
    config = make_config(
        tmp_path, max_steps=2000, num_epochs=500, save_steps=5, plugins=["support.hang.HangPlugin"]
    )
    tests = str(Path(__file__).parents[1])
    started = start(config, "--grace", "3", env=env | {"HANG": how, "PYTHONPATH": tests})
    started.step(5)
    time.sleep(5)  # with the GIL held, nothing more is told of step 8
    began = time.monotonic()
    started.signal()
    status, output = started.finish()
    assert status == 75, output
    assert time.monotonic() - began < 40
    assert intact_steps(tmp_path / "run") == [5]
    assert not processes_of(tmp_path / "run")


@pytest.mark.slow
def test_a_dead_rank_takes_the_others_along_and_leaves_no_lock(
    make_config: MakeConfig, env_of_ranks: dict[str, str], tmp_path: Path
) -> None:
    config = make_config(
        tmp_path, max_steps=2000, num_epochs=500, max_memory={"cpu": "8GiB"}, eval_steps=1000
    )
    two = ("--grace", "5", "--", "--multi_gpu", "--num_processes", "2")
    started = start(config, *two, env=env_of_ranks)
    started.step(14)
    os.kill(started.pid("rank1"), signal.SIGKILL)
    status, output = started.finish()
    assert status == 1, output
    assert not processes_of(tmp_path / "run")
    assert intact_steps(tmp_path / "run") == [12]
    resumed = start(config, *two, env=env_of_ranks)
    resumed.step(14)
    os.kill(resumed.pid("rank1"), signal.SIGSTOP)
    resumed.signal()
    assert resumed.finish()[0] == 75
    assert not processes_of(tmp_path / "run")


@pytest.mark.axolotl
def test_a_stop_before_the_first_step_saves_nothing_and_says_so(
    make_config: MakeConfig, env: dict[str, str], tmp_path: Path
) -> None:
    config = make_config(tmp_path, dataset_prepared_path=str(tmp_path / "prepared"))
    started = start(config, env=env)
    started.phase("data")
    began = time.monotonic()
    started.signal()
    status, output = started.finish()
    assert status == 130, output
    assert time.monotonic() - began < 15
    assert "nothing to save" in output or "has not begun" in output
    assert not processes_of(tmp_path / "run")
    (tmp_path / "prepared" / ("0" * 32)).mkdir(parents=True)  # as an earlier kill leaves it
    (tmp_path / "prepared" / ("0" * 32) / "data-00000-of-00001.arrow").write_bytes(b"half")
    assert "Training finished" in train(config, "--set", "max_steps=2", env=env)
    assert not (tmp_path / "prepared" / ("0" * 32)).exists()


def test_a_pause_in_the_evaluation_before_the_first_step_saves_nothing(
    make_config: MakeConfig, env: dict[str, str], tmp_path: Path
) -> None:
    config = make_config(tmp_path, val_set_size=100, eval_batch_size=1)
    started = start(config, env=env)
    started.phase("evaluating")
    started.signal()
    status, output = started.finish()
    assert status == 130, output
    assert "there was nothing to save" in output
    assert not list((tmp_path / "run").glob("checkpoint-*"))


def test_until_and_save_minutes_are_kept_by_the_trainer(
    make_config: MakeConfig, env: dict[str, str], tmp_path: Path
) -> None:
    config = make_config(
        tmp_path,
        max_steps=20000,
        num_epochs=5000,
        save_steps=10000,
        eval_steps=10000,
        save_total_limit=2,
        leviathan_save_minutes=0.02,
    )
    started = start(config, "--for", "60s", env=env)
    status, output = started.finish()
    assert status == 75, output
    assert len(intact_steps(tmp_path / "run")) >= 2
    session = started.session()
    assert session
    end = json.loads((session / "end.json").read_text())
    assert end["why"] == "the end of its time"


@pytest.mark.axolotl
def test_the_plugin_alone_protects_a_plain_training(
    make_config: MakeConfig, env: dict[str, str], tmp_path: Path
) -> None:
    config = make_config(tmp_path, max_steps=2000, num_epochs=500)
    plain = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    with (tmp_path / "out").open("w") as out:
        process = subprocess.Popen(
            [*plain, "-m", "axolotl.cli.train", str(config)],
            cwd=tmp_path,
            env=env,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    run = Run(tmp_path / "run")
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        session = run.session()
        if session and session.status and session.status.step >= 3:
            break
        time.sleep(0.1)
    assert session
    os.killpg(process.pid, signal.SIGINT)  # as a terminal's Ctrl+C: launcher and trainer
    process.wait(timeout=100)
    while session.end is None and time.monotonic() < deadline:
        time.sleep(0.1)  # the launcher is gone at once; the trainer saves first
    assert session.end and session.end.kind == "paused"
    assert intact_steps(tmp_path / "run") == [session.end.step]
    assert not (tmp_path / "run/adapter_model.safetensors").exists()


@pytest.mark.axolotl
def test_a_training_without_the_plugin_is_ended(
    make_config: MakeConfig, env: dict[str, str], tmp_path: Path
) -> None:
    config = make_config(tmp_path)
    broken = tmp_path / "site"
    broken.mkdir()
    (broken / "sitecustomize.py").write_text(
        "import sys\n"
        "if any('axolotl' in part for part in sys.argv + sys.orig_argv):\n"
        "    sys.modules['leviathan_train.plugin'] = None\n"
    )
    output = train(config, env=env | {"PYTHONPATH": str(broken)}, expect=1)
    assert "did not load in the trainer" in output
    assert not intact_steps(tmp_path / "run")


@pytest.mark.axolotl
def test_strict_configs_keep_our_overrides(
    make_config: MakeConfig, env: dict[str, str], tmp_path: Path
) -> None:
    config = make_config(tmp_path, strict=True, plugins=None, max_steps=2)
    train(config, env=env)
    assert intact_steps(tmp_path / "run") == [2]


@pytest.mark.axolotl
def test_the_pause_of_a_tracked_run_survives_rotation_and_best_strategies(
    make_config: MakeConfig, env: dict[str, str], tmp_path: Path
) -> None:
    config = make_config(
        tmp_path,
        max_steps=400,
        num_epochs=100,
        save_total_limit=1,
        save_steps=4,
        eval_steps=4,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        load_best_model_at_end=True,
        early_stopping_patience=50,
    )
    step = pause_at(config, 9, env=env)
    assert step in intact_steps(tmp_path / "run")
    again = pause_at(config, step + 2, env=env)
    assert again in intact_steps(tmp_path / "run")
    assert not (tmp_path / "run/adapter_model.safetensors").exists()


@pytest.mark.axolotl
def test_two_ranks_stop_at_one_step_and_go_on(
    make_config: MakeConfig, env_of_ranks: dict[str, str], tmp_path: Path
) -> None:
    config = make_config(
        tmp_path,
        max_steps=400,
        num_epochs=100,
        max_memory={"cpu": "8GiB"},
        eval_steps=1000,
        save_steps=1000,  # a pause may come when one is due, or not
    )
    two = ("--", "--multi_gpu", "--num_processes", "2")
    step = pause_at(config, 3, *two, env=env_of_ranks)
    checkpoint = tmp_path / "run" / f"checkpoint-{step}"
    assert {path.name for path in checkpoint.glob("rng_state*")} == {
        "rng_state_0.pth",
        "rng_state_1.pth",
    }
    assert intact_steps(tmp_path / "run") == [step]
    log = next((tmp_path / "run/logs").iterdir()).read_text()
    assert "Traceback" not in log
    started = start(config, *two, env=env_of_ranks)
    started.step(step + 2)
    os.kill(started.pid("rank1"), signal.SIGTERM)
    status, output = started.finish()
    assert status == 75, output
    assert "✅ Loaded optimizer state" in output
    assert len(intact_steps(tmp_path / "run")) == 2
    assert not processes_of(tmp_path / "run")
