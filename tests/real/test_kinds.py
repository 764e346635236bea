"""Every optimizer and every way to draw rows that Axolotl offers: a resume is exact, or told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from leviathan_train.config import schema
from leviathan_train.config.exactness import inexact_optimizer
from leviathan_train.config.load import Config
from support.demo import MakeConfig
from support.exactness import resumed_at
from support.forked import Forge

pytestmark = [
    pytest.mark.train,
    pytest.mark.slow,
    pytest.mark.axolotl,
    pytest.mark.timeout(900),
]

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
    few = {"max_steps": 8, "save_steps": 4, "logging_steps": 1, "eval_steps": 4}
    resumed_at(forge, make_config, tmp_path, 4, **few, **settings)
