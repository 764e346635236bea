"""Every optimizer and every way to draw rows that Axolotl offers: a resume is exact, or told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from leviathan_train.config import schema
from leviathan_train.config.exactness import inexact_optimizer
from leviathan_train.config.load import Config
from support.demo import Demo, MakeConfig
from support.exactness import resumed_at
from support.forked import Forge

pytestmark = [pytest.mark.train, pytest.mark.slow, pytest.mark.timeout(900)]

EXACT = (
    *("adamw_torch", "adamw_torch_fused", "adamw_torch_4bit", "adamw_torch_8bit", "adafactor"),
    *("ademamix", "sgd", "adagrad", "adamw_bnb_8bit", "adamw_8bit", "ademamix_8bit", "lion_8bit"),
    *("lion_32bit", "paged_adamw_32bit", "paged_adamw_8bit", "paged_ademamix_32bit"),
    *("paged_ademamix_8bit", "paged_lion_32bit", "paged_lion_8bit", "rmsprop", "rmsprop_bnb"),
    *("rmsprop_bnb_8bit", "rmsprop_bnb_32bit", "schedule_free_adamw", "schedule_free_radam"),
    *("schedule_free_sgd", "ao_adamw_fp8", "adopt_adamw", "adamc", "muon", "sinkgd"),
)
NOT_HERE = {
    **dict.fromkeys(("adamw_torch_xla", "adamw_torch_npu_fused", "adamw_anyprecision"), "hardware"),
    **dict.fromkeys(("adalomo", "stable_adamw", "optimi_adamw", "muon_8bit", "scao"), "a GPU"),
    **dict.fromkeys(("lomo", "came_pytorch", "polora", "dion"), "a package or settings"),
    **dict.fromkeys(
        [f"flash_{name}" for name in ("adamw", "adam", "sgd", "sgdw", "lion")], "a GPU"
    ),
    **dict.fromkeys(("ao_adamw_4bit", "ao_adamw_8bit"), "no training: Axolotl 0.19 fails on it"),
}
"""What cannot be tried on a CPU with the packages that Axolotl brings, and what it would take."""


@pytest.fixture(scope="module")
def forge(env: dict[str, str]) -> Iterator[Forge]:
    with Forge(env) as server:
        yield server


def test_every_optimizer_is_tried_or_told() -> None:
    offered = set(schema.ask(()).choices["optimizer"])
    told = {n for n in offered if inexact_optimizer(Config(Path("c"), {"optimizer": n}))}
    assert offered - told <= {*EXACT, *NOT_HERE}


@pytest.mark.parametrize("name", EXACT)
def test_an_optimizer_is_exact(
    make_config: MakeConfig, forge: Forge, tmp_path: Path, name: str
) -> None:
    settings: dict[str, Any] = {"optimizer": name}
    if name.startswith("schedule_free"):
        settings["lr_scheduler"] = "constant"
    few: dict[str, Any] = {"max_steps": 8, "save_steps": 4, "logging_steps": 1, "eval_steps": 4}
    resumed_at(forge, make_config, tmp_path, 4, **few, **settings)


DRAWS: dict[str, dict[str, Any]] = {
    "drop_last": {"dataloader_drop_last": True},
    "workers": {"dataloader_num_workers": 2, "dataloader_prefetch_factor": 4},
    "sequential packs": {"sample_packing_sequentially": True},
    "real batches": {"multipack_real_batches": True},
    "small groups": {"sample_packing_group_size": 50, "sample_packing_bin_size": 5},
    "packed curriculum": {"curriculum_sampling": True, "sample_packing": True},
    "packed drop_last": {"dataloader_drop_last": True, "sample_packing": True},
}


@pytest.mark.parametrize("name", DRAWS)
def test_rows_are_drawn_in_the_same_order(
    make_config: MakeConfig, forge: Forge, tmp_path: Path, name: str
) -> None:
    settings = dict(DRAWS[name])
    if any(word in key for key in settings for word in ("pack", "batches")):
        settings |= {"sample_packing": True, "pad_to_sequence_len": True}
        settings |= {"eval_sample_packing": False}  # too few rows to pack them
    often: dict[str, Any] = {"max_steps": 28, "save_steps": 22, "logging_steps": 3, "num_epochs": 9}
    resumed_at(forge, make_config, tmp_path, 22, **often, **settings)


@pytest.mark.parametrize("kind", ["streaming", "pretraining"])
def test_streamed_rows_go_on_where_they_were(
    make_config: MakeConfig, forge: Forge, tmp_path: Path, demo: Demo, kind: str
) -> None:
    """In the second pass over them: how many there are is not known before the first has ended."""
    text = tmp_path / "text.jsonl"
    rows = [json.loads(line) for line in demo.data.read_text().splitlines()]
    text.write_text("\n".join(json.dumps({"text": " ".join(row.values())}) for row in rows))
    source = {"path": "json", "data_files": [str(text)], "type": "pretrain", "text_column": "text"}
    settings: dict[str, Any] = {
        "max_steps": 48,
        "save_steps": 40,
        "logging_steps": 3,
        "num_epochs": None,
        "val_set_size": 0,
        "eval_steps": None,
        **({"streaming": True} if kind == "streaming" else {}),
        **({"pretraining_dataset": [source], "datasets": None} if kind == "pretraining" else {}),
    }
    late = resumed_at(forge, make_config, tmp_path, 40, proves_rows=False, **settings)
    seal = json.loads((late / "leviathan.json").read_text())
    assert seal["trainer"]["position"]["epoch"] >= 1


def test_relora_cannot_be_resumed_by_plain_axolotl_either(
    make_config: MakeConfig, forge: Forge, tmp_path: Path
) -> None:
    settings = {
        "relora": True,
        "jagged_restart_steps": 10,
        "jagged_restart_warmup_steps": 2,
        "jagged_restart_anneal_steps": 2,
        "relora_prune_ratio": 0.9,
        "max_steps": 24,
        "save_steps": 12,
        "plugins": None,
    }
    first = forge.must_train(make_config(tmp_path, **settings))
    (tmp_path / "resumed").mkdir()
    resume = {"resume_from_checkpoint": str(first.run / "checkpoint-12")}
    done = forge.train(make_config(tmp_path / "resumed", **settings, **resume))
    assert done.code == 1 and "KeyError" in done.error
