"""How much memory a training will need: part by part, from the base's own tensors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from leviathan_train.config.load import Config
from leviathan_train.config.memory import Memory, memory
from support.bases import QWEN3_8B, hollow_base

GB = 2**30
QLORA: dict[str, Any] = {
    "adapter": "qlora",
    "load_in_4bit": True,
    "lora_r": 64,
    "lora_target_linear": True,
    "lora_dropout": 0.05,
    "micro_batch_size": 1,
    "sequence_len": 2048,
    "optimizer": "adamw_8bit",
    "gradient_checkpointing": True,
    "bf16": True,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hollow_base(tmp_path_factory.mktemp("bases") / "qwen3-8b")


def of(base: Path, **settings: Any) -> Memory:
    return memory(Config(Path("a.yaml"), {"base_model": str(base), **QLORA, **settings}))


def parts(found: Memory) -> dict[str, int]:
    assert not found.unknown
    return {part.name: part.bytes for part in found.parts}


def test_the_shipped_settings_fit_a_card_of_16_gb(base: Path) -> None:
    found = parts(of(base))
    # 6.95 billion numbers in 4 bits with their scales; embedding, head and norms in 16 bits.
    linear, other = 36 * 192_937_984, 2 * 151936 * 4096 + 36 * (2 * 4096 + 2 * 128) + 4096
    assert found["weights"] == pytest.approx(linear * (0.5 + 1 / 64) + other * 2, rel=1e-3)
    assert found["adapter"] == found["gradients"] == 4 * 174_587_904
    assert found["optimizer"] == pytest.approx(2 * 174_587_904 * (1 + 4 / 256), rel=1e-3)
    assert found["activations"] == 36 * 2048 * 4096 * 2
    assert 10 * GB < sum(found.values()) < 16 * GB


@pytest.mark.parametrize(
    ("settings", "part", "factor"),
    [
        ({"load_in_4bit": False, "load_in_8bit": True, "adapter": "lora"}, "weights", 1.57),
        ({"load_in_4bit": False, "adapter": "lora"}, "weights", 2.69),
        ({"optimizer": "adamw_torch"}, "optimizer", 3.94),
        ({"optimizer": "lion_8bit"}, "optimizer", 0.5),
        ({"lora_r": 32}, "adapter", 0.5),
        ({"sequence_len": 4096}, "activations", 2),
        ({"micro_batch_size": 4}, "logits", 4),
        ({"cut_cross_entropy": True}, "layer", None),
    ],
)
def test_each_setting_changes_its_part(
    base: Path, settings: dict[str, Any], part: str, factor: float | None
) -> None:
    before, after = parts(of(base)), parts(of(base, **settings))
    if factor is None:
        assert part in after and "logits" not in after
    else:
        assert after[part] / before[part] == pytest.approx(factor, rel=0.02)


def test_without_checkpointing_every_layer_is_kept(base: Path) -> None:
    with_it, without = (parts(of(base, gradient_checkpointing=on)) for on in (True, False))
    assert without["activations"] > 15 * with_it["activations"]


def test_a_full_fine_tune_trains_every_number(base: Path) -> None:
    settings = {"adapter": None, "load_in_4bit": None, "optimizer": "adamw_torch"}
    found = parts(of(base, **settings))
    assert found["weights"] == found["gradients"] == 2 * 8_190_735_360
    assert found["optimizer"] == 2 * found["weights"]
    assert "adapter" not in found


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"base_model": "org/not-here"}, "not on this machine"),
        ({"deepspeed": "zero3.json"}, "spread over the GPUs"),
        ({"rl": "dpo"}, "more than one"),
        ({"lora_target_linear": False}, "left to peft"),
    ],
)
def test_what_cannot_be_told_is_said(base: Path, settings: dict[str, Any], why: str) -> None:
    found = of(base, **settings)
    assert why in found.unknown and not found.parts


def test_a_mixture_of_experts_is_not_reckoned(tmp_path: Path) -> None:
    small = QWEN3_8B | {"num_hidden_layers": 1, "num_experts": 8}
    assert "experts" in of(hollow_base(tmp_path / "base", small)).unknown


def test_weights_that_are_cut_off_are_not_called_an_unknown_shape(tmp_path: Path) -> None:
    cut = hollow_base(tmp_path / "base", {**QWEN3_8B, "num_hidden_layers": 1})
    (file,) = cut.glob("*.safetensors")
    os.truncate(file, 1000)
    assert of(cut).unknown == f"the weights in {cut} cannot be read"


def test_an_optimizer_that_is_not_known_is_named(base: Path) -> None:
    (part,) = (one for one in of(base, optimizer="galore_adamw").parts if one.name == "optimizer")
    assert "galore_adamw: not known" in part.how
