"""Requests, kills and full disks on real trainings: nothing asked is lost, nothing is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from leviathan_train.checkpoints import store
from leviathan_train.run import metrics
from leviathan_train.run.folder import Run
from leviathan_train.run.records import Ending, RequestKind
from leviathan_train.run.session import Session
from leviathan_train.system.processes import wait_gone
from support.demo import MakeConfig
from support.disks import fill
from support.driver import LEVIATHAN, Started, leviathan, processes_of, start, train

pytestmark = pytest.mark.train

ENDLESS = {"max_steps": 20_000, "num_epochs": 5000, "save_steps": 10_000, "eval_steps": 10_000}


def session_of(started: Started) -> Session:
    path = started.session()
    assert path
    return Session(path)


def intact(run: Path) -> list[int]:
    return [found.step for found in store.scan(Run(run), store.Read.ALL) if found.intact]


def test_a_pause_among_saves_from_four_terminals_is_not_lost(
    make_config: MakeConfig, env: dict[str, str], tmp_path: Path
) -> None:
    config = make_config(tmp_path, **ENDLESS)
    started = start(config, env=env)
    started.step(3)
    words = ["save", "pause", "save", "pause"]
    asked = [
        subprocess.Popen(
            [LEVIATHAN, word, "run", "--json"],
            cwd=tmp_path,
            env=env,
            stdout=subprocess.PIPE,
            text=True,
        )
        for word in words
    ]
    answers = [json.loads(process.communicate()[0]) for process in asked]
    status, output = started.finish()
    assert status == 75, output
    end = session_of(started).end
    assert end
    assert end.kind is Ending.PAUSED
    assert end.step in intact(tmp_path / "run")
    for word, answer in zip(words, answers, strict=True):
        assert answer["checkpoint"], answer
        assert (answer["end"] or {}).get("kind") in ({"paused"} if word == "pause" else {None})


def test_saves_one_after_another_are_each_answered(
    make_config: MakeConfig, env: dict[str, str], tmp_path: Path
) -> None:
    config = make_config(tmp_path, **ENDLESS)
    started = start(config, env=env)
    started.step(3)
    session = session_of(started)
    names = []
    for _ in range(5):
        names.append(session.ask(RequestKind.SAVE, "the test"))
        time.sleep(0.05)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not all(map(session.requests.answer, names)):
        time.sleep(0.1)
    answers = [session.requests.answer(name) for name in names]
    assert all(answers), answers
    steps = {int(answer.checkpoint.split("-")[1]) for answer in answers if answer}
    started.signal()
    assert started.finish()[0] == 75
    assert steps <= set(intact(tmp_path / "run"))


def test_killed_with_everything_around_it_a_training_leaves_no_data_worker(
    make_config: MakeConfig, env: dict[str, str], tmp_path: Path
) -> None:
    config = make_config(
        tmp_path, **ENDLESS, dataloader_num_workers=2, dataloader_prefetch_factor=64
    )
    started = start(config, env=env)
    started.step(5)
    everything = processes_of(tmp_path / "run")
    assert len(everything) >= 4  # launcher, trainer, two workers
    for pid in [started.pid("rank0"), started.pid("launcher")]:
        os.kill(pid, signal.SIGKILL)
    started.kill()
    assert wait_gone(everything, 15.0), processes_of(tmp_path / "run")


def test_a_start_ends_what_a_dead_session_left(
    make_config: MakeConfig, env: dict[str, str], tmp_path: Path
) -> None:
    config = make_config(tmp_path, max_steps=2)
    dead = (tmp_path / "run/.leviathan/sessions/20200101_000000").resolve()
    dead.mkdir(parents=True)
    os.utime(dead, (1e9, 1e9))
    orphan = subprocess.Popen(["sleep", "600"], env=env | {"LEVIATHAN_SESSION": str(dead)})
    train(config, env=env)
    assert orphan.wait(10) == -signal.SIGKILL
    assert not dead.exists()  # it was never more than a folder


@pytest.mark.parametrize("way", ["ctrl-c", "pause"])
def test_a_stopped_trainer_is_killed_within_its_grace(
    make_config: MakeConfig, env: dict[str, str], tmp_path: Path, way: str
) -> None:
    grace = 4.0
    config = make_config(tmp_path, **ENDLESS | {"save_steps": 5})
    started = start(config, "--grace", str(grace), env=env)
    started.wait(lambda s: bool(s.get("last_checkpoint")) and s["phase"] == "training")
    os.kill(started.pid("rank0"), signal.SIGSTOP)
    if way == "ctrl-c":
        started.signal()
    else:
        words = ["pause", "run", "--grace", str(grace)]
        leviathan(*words, cwd=tmp_path, env=env, check=75)
    assert started.finish()[0] == 75
    session = session_of(started)
    asked, end = session.asked, session.end
    assert asked
    assert end
    assert end.kind is Ending.KILLED
    assert end.at - asked.at < grace + 3
    assert not processes_of(tmp_path / "run")


# -- full disks ------------------------------------------------------------------------


def test_a_full_disk_ends_no_training_by_a_log_line(
    make_config: MakeConfig, env: dict[str, str], tmp_path: Path, small_disk: Path
) -> None:
    run = small_disk / "run"
    config = make_config(tmp_path, **ENDLESS | {"logging_steps": 1}, output_dir=str(run))
    started = start(config, env=env, run=run)
    began = started.step(3)["step"]
    session = session_of(started)
    ballast = fill(small_disk)
    time.sleep(3)  # some dozens of steps, each with its line
    assert started.process.poll() is None
    ballast.unlink()
    freed = started.step(began + 1)["step"]  # a full disk takes no status either
    started.step(freed + 10)
    assert metrics.of_session(session)[-1].step > freed  # lines are kept again
    started.signal()
    status, output = started.finish()
    assert status == 75, output
    assert intact(run)
