"""Fixtures of the tests that really train: one tiny model, one data set, one prepared cache."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, settings

from support.demo import PLUGIN, ROOT, ROWS, Demo, MakeConfig
from support.disks import disk_of, mounts_of_our_own

_numbers = itertools.count()

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("any", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any")

# A job that a script starts with `&` ignores SIGINT, and so would every child of the tests.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# What a killed run of the tests had mounted goes with it.
mounts_of_our_own()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The modules that train come first, so that no worker waits for the other's at the end."""
    longest = ("test_train", "test_identity")
    items.sort(
        key=lambda item: (
            item.path.stem not in longest,
            item.get_closest_marker("train") is None,
        )
    )


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[Path]:
    """The user's cache, one for all workers: Axolotl is asked once what it knows.

    Runs are remembered in a folder of the worker's own, and not in the developer's.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        patch.setenv("XDG_STATE_HOME", str(base / "state"))
        yield folder


@pytest.fixture(autouse=True)
def state(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What a test does in its own process, it remembers for itself."""
    folder = tmp_path_factory.getbasetemp() / "states" / str(next(_numbers))
    monkeypatch.setenv("XDG_STATE_HOME", str(folder))


@pytest.fixture(scope="session")
def env(cache: Path) -> dict[str, str]:
    """An environment for children that train: no network, and the same sums at each start."""
    return os.environ | {
        "AXOLOTL_DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture(scope="session")
def env_of_ranks(env: dict[str, str]) -> dict[str, str]:
    """The same, where `-- --multi_gpu --num_processes 2` starts two ranks on the CPU."""
    no_driver = ROOT / "tests" / "support" / "no_driver"
    return env | {"ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(no_driver)}


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory, env: dict[str, str]) -> Demo:
    folder = tmp_path_factory.mktemp("demo")
    script = ROOT / "scripts" / "make_demo.py"
    subprocess.run(
        [sys.executable, script, "--out", folder, "--rows", str(ROWS)], check=True, env=env
    )
    return Demo(folder / "model", folder / "data.jsonl", folder / "prepared")


@pytest.fixture(scope="session")
def make_config(demo: Demo) -> MakeConfig:
    """make_config(folder, **overrides): write folder/config.yaml, a run of 36 steps on a CPU.

    The run is folder/run. An override of None takes the key out. Tests that change the data
    or break the prepared rows give their own `datasets` and `dataset_prepared_path`.
    """

    def make(folder: Path, **overrides: Any) -> Path:
        values = {
            "base_model": str(demo.model),
            "output_dir": str(folder / "run"),
            "plugins": [PLUGIN],
            "datasets": [{"path": str(demo.data), "ds_type": "json", "type": "alpaca"}],
            "dataset_prepared_path": str(demo.prepared),
            "dataset_num_proc": 1,
            "val_set_size": 16,
            "sequence_len": 256,
            "seed": 42,
            "adapter": "lora",
            "lora_r": 8,
            "lora_alpha": 16,
            "lora_dropout": 0.05,
            "lora_target_linear": True,
            "num_epochs": 2,
            "micro_batch_size": 2,
            "gradient_accumulation_steps": 4,
            "optimizer": "adamw_torch",
            "learning_rate": 0.01,
            "lr_scheduler": "cosine",
            "warmup_steps": 2,
            "logging_steps": 3,
            "eval_steps": 12,
            "save_steps": 12,
            "bf16": False,
            "fp16": False,
            "tf32": False,
            "lora_mlp_kernel": False,
            "lora_qkv_kernel": False,
            "lora_o_kernel": False,
            "gradient_checkpointing": False,
        } | overrides
        path = folder / "config.yaml"
        kept = {key: value for key, value in values.items() if value is not None}
        path.write_text(yaml.safe_dump(kept, sort_keys=False), encoding="utf-8")
        return path

    return make


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 MB."""
    with disk_of(tmp_path / "disk", "16m") as path:
        yield path
