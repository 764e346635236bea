"""A run that was never disturbed, and copies of it to disturb: what every fault is judged by."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from leviathan_train.checkpoints import store
from leviathan_train.run.folder import Run
from support.demo import ROOT
from support.driver import differences, pause_at, train, training_state

FIRST, LAST, SAVE_STEPS = 3, 120, 10
"""The shared first checkpoint, the last step, and the steps between two saves."""
RANKS: dict[int, tuple[str, ...]] = {1: (), 2: ("--", "--multi_gpu", "--num_processes", "2")}
"""What a training on so many ranks is started with."""


@dataclass(frozen=True)
class Bench:
    """A run that was trained straight to its end, and what it takes to train it again.

    Fresh runs are not reproducible (LoRA is initialised before the seed is set), so all
    trainings begin at one first checkpoint.
    """

    folder: Path
    ranks: int
    env: Mapping[str, str]

    @property
    def config(self) -> Path:
        return self.folder / "config.yaml"

    def copy(self, run: Path) -> None:
        """Make `run` a run at the first checkpoint."""
        shutil.copytree(self.folder / "first", run)

    def arguments(self, run: Path) -> tuple[str, ...]:
        """The arguments of `leviathan train CONFIG` for a copy: few checkpoints are kept."""
        to_run = ("--set", f"output_dir={run}", "--set", "save_total_limit=3")
        return (*to_run, "--resume", "auto", *RANKS[self.ranks])

    def wrong(self, run: Path, *, newest: bool = False) -> list[str]:
        """Where checkpoints that pass for intact differ from those of the undisturbed run.

        Args:
            newest: look at the newest one alone.
        """
        found = [item for item in store.scan(Run(run), store.Read.ALL) if item.intact]
        faults = []
        for item in found[-1:] if newest else found:
            straight = self.folder / "run" / item.name
            if straight.is_dir():  # a pause leaves checkpoints of steps that have none there
                one, other = (training_state(p, ranks=self.ranks) for p in (straight, item.path))
                faults += [f"{item.name}{line}" for line in differences(one, other)[:1]]
        return faults


def environment(ranks: int = 1) -> dict[str, str]:
    """For children that train: no network, and the same sums at each start."""
    env = os.environ | {
        "AXOLOTL_DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    if ranks > 1:
        no_driver = ROOT / "tests/support/no_driver"
        env |= {"ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(no_driver)}
    return env


def make(folder: Path, ranks: int = 1, **overrides: Any) -> Bench:
    """Make a bench in `folder`, or take the one that is there."""
    folder = folder.absolute()
    bench = Bench(folder, ranks, environment(ranks))
    if (folder / "made").exists():
        return bench
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    values = settings(folder, bench.env)
    if ranks > 1:
        values["max_memory"] = {"cpu": "8GiB"}
    bench.config.write_text(yaml.safe_dump(values | overrides))
    pause_at(bench.config, FIRST, *RANKS[ranks], env=bench.env)
    shutil.copytree(folder / "run", folder / "first")
    train(bench.config, *RANKS[ranks], env=bench.env)
    (folder / "made").touch()
    return bench


def settings(folder: Path, env: Mapping[str, str]) -> dict[str, Any]:
    """A config for a run of a tiny model in `folder`, which is made."""
    demo = [sys.executable, str(ROOT / "scripts/make_demo.py"), "--out", str(folder / "demo")]
    subprocess.run([*demo, "--rows", "160"], check=True, env=dict(env), stdout=subprocess.DEVNULL)
    values: dict[str, Any] = yaml.safe_load((ROOT / "configs/demo_cpu.yaml").read_text())
    rows = {"path": str(folder / "demo/data.jsonl"), "ds_type": "json", "type": "alpaca"}
    return values | {
        "base_model": str(folder / "demo/model"),
        "datasets": [rows],
        "dataset_prepared_path": str(folder / "prepared"),
        "output_dir": str(folder / "run"),
        "val_set_size": 16,
        "max_steps": LAST,
        "num_epochs": 30,
        "micro_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "dataloader_num_workers": 1,
        "logging_steps": 1,
        "eval_steps": 25,
        "save_steps": SAVE_STEPS,
        "save_total_limit": 99,
    }


def seed() -> int:
    """What random choices of a test are drawn from: another each time, or the given one."""
    return int(os.environ.get("LEVIATHAN_TEST_SEED", random.randrange(1000)))


def last_logged(session: Path) -> int:
    """The last step that a session's trainer logged; 0 if none was."""
    last = 0
    try:
        for line in (session / "metrics.jsonl").read_text().splitlines():
            last = max(last, int(json.loads(line)["step"]))
    except (OSError, ValueError, KeyError):
        pass  # killed amid a line
    return last
