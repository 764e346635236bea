"""What needs a GPU is named, and nothing else: each row is tried on the real Axolotl."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from leviathan_train.config import requirements as needs
from leviathan_train.config.base_model import model_folder
from leviathan_train.config.load import Config, load_config
from leviathan_train.errors import UsageError
from support.demo import MakeConfig
from support.forked import Forge

OFF = {"lora_mlp_kernel": False, "lora_qkv_kernel": False, "lora_o_kernel": False}
ABSENT = dict.fromkeys(OFF)
QLORA = {"adapter": "qlora", "load_in_4bit": True}
LINEAR = {"adapter": "lora", "lora_target_linear": True}
QV = {"lora_target_linear": None, "lora_target_modules": ["q_proj", "v_proj"]}
LIGER = {"plugins": ["axolotl.integrations.liger.LigerPlugin"]}

FAILS: list[tuple[dict[str, Any], list[str]]] = [
    ({"bf16": True}, ["bf16"]),
    ({"bfloat16": True, "bf16": None}, ["bfloat16"]),
    ({"tf32": True}, ["tf32"]),
    ({"fp8": True}, ["fp8"]),
    (ABSENT, ["lora_mlp_kernel"]),
    (OFF | {"lora_mlp_kernel": True}, ["lora_mlp_kernel"]),
    (ABSENT | QLORA, ["lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel"]),
    (OFF | QLORA | {"lora_qkv_kernel": True}, ["lora_qkv_kernel"]),
    (OFF | QLORA | {"lora_o_kernel": True}, ["lora_o_kernel"]),
    (
        ABSENT | {"lora_target_linear": None, "lora_target_modules": "all-linear"},
        ["lora_mlp_kernel"],
    ),
    ({"attn_implementation": "flash_attention_2"}, ["attn_implementation"]),
    ({"flash_attention": True}, ["attn_implementation"]),
    ({"attn_implementation": "xformers"}, ["attn_implementation"]),
    ({"gradient_checkpointing": "offload"}, ["gradient_checkpointing"]),
    (
        {"gradient_checkpointing": True, "activation_offloading": True},
        ["activation_offloading"],
    ),
    ({"gpu_memory_limit": 8}, ["gpu_memory_limit"]),
    (LIGER | {"liger_rope": True}, ["liger_rope"]),
]
TRAINS: list[dict[str, Any]] = [
    {"bf16": "auto", "fp16": None, "tf32": None},
    {"fp16": True},
    {"tf32": "auto"},
    {"optimizer": "adamw_8bit"},
    {"optimizer": "paged_adamw_8bit"},
    QLORA,
    {"load_in_8bit": True} | ABSENT,
    ABSENT | {"trust_remote_code": True},
    ABSENT | {"lora_mlp_kernel": False},
    ABSENT | QV,
    ABSENT | QLORA | QV,
    OFF | {"lora_qkv_kernel": True, "lora_o_kernel": True},
    {"attn_implementation": "sdpa"},
    {"gradient_checkpointing": True},
    LIGER,
]


def of(values: dict[str, Any]) -> list[str]:
    whole = LINEAR | OFF | values
    return needs.gpu_needs(Config(Path("config.yaml"), whole))


@pytest.mark.parametrize(("values", "keys"), FAILS, ids=str)
def test_what_fails_without_a_gpu_is_named(values: dict[str, Any], keys: list[str]) -> None:
    assert [need.split(":")[0].split(" ")[0] for need in of(values)] == keys


@pytest.mark.parametrize("values", TRAINS, ids=str)
def test_what_trains_on_a_cpu_is_not_named(values: dict[str, Any]) -> None:
    assert of(values) == []


@pytest.fixture(scope="module")
def forge(env: dict[str, str]) -> Iterator[Forge]:
    with Forge(env | {"ACCELERATE_USE_CPU": "true"}) as client:
        yield client


def tried(forge: Forge, make_config: MakeConfig, folder: Path, values: dict[str, Any]) -> int:
    """Exit status of two steps on the real Axolotl, without a word of ours before."""
    small = {"plugins": [], "max_steps": 2, "num_epochs": None, "val_set_size": 0, "seed": None}
    none = {"eval_steps": None, "save_steps": None, "save_strategy": "no", "warmup_steps": 0}
    return forge.train(make_config(folder, **(small | none | values))).code


@pytest.mark.train
@pytest.mark.slow
@pytest.mark.parametrize("values", [values for values, _ in FAILS], ids=str)
def test_axolotl_fails_on_a_cpu_with(
    forge: Forge, make_config: MakeConfig, tmp_path: Path, values: dict[str, Any]
) -> None:
    assert tried(forge, make_config, tmp_path, values) != 0


@pytest.mark.train
@pytest.mark.slow
@pytest.mark.parametrize("values", TRAINS, ids=str)
def test_axolotl_trains_on_a_cpu_with(
    forge: Forge, make_config: MakeConfig, tmp_path: Path, values: dict[str, Any]
) -> None:
    assert tried(forge, make_config, tmp_path, values) == 0


def test_no_gpu_is_told_with_what_needs_one_and_the_demo() -> None:
    wanting = Config(Path("a.yaml"), LINEAR | {"bf16": True})
    with pytest.raises(UsageError) as raised:
        needs.require_gpu(wanting, has_gpu=False)
    assert "bf16: true, lora_mlp_kernel (on if it is not set to false)" in raised.value.message
    assert "--set bf16=false --set lora_mlp_kernel=false" in str(raised.value.hint)
    assert "configs/demo_cpu.yaml" in str(raised.value.hint)
    needs.require_gpu(wanting, has_gpu=True)


def test_an_override_makes_a_gpu_config_fit_for_a_cpu(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    path = make_config(tmp_path, bf16=True, tf32=True)
    assert len(needs.gpu_needs(load_config(path))) == 2
    assert needs.gpu_needs(load_config(path, ["bf16=false", "tf32=false"])) == []


SHAPE = {
    "hidden_size": 4096,
    "num_hidden_layers": 36,
    "intermediate_size": 12288,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
}


@pytest.mark.parametrize(
    ("values", "parameters", "bytes_each"),
    [
        ({"lora_target_linear": True}, 174_587_904, 12),
        ({"lora_target_linear": True, "optimizer": "adamw_8bit"}, 174_587_904, 6),
        ({"lora_target_modules": ["q_proj", "v_proj"]}, 64 * 36 * (8192 + 5120), 12),
    ],
)
def test_the_size_of_a_checkpoint_is_estimated_from_the_base(
    tmp_path: Path, values: dict[str, Any], parameters: int, bytes_each: int
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SHAPE))
    whole = {"base_model": str(tmp_path), "adapter": "qlora", "lora_r": 64} | values
    found = needs.checkpoint_bytes(Config(Path("a.yaml"), whole))
    assert found == parameters * bytes_each


def test_an_unknown_shape_gives_no_estimate(tmp_path: Path) -> None:
    values = {"base_model": "org/unknown", "adapter": "lora", "lora_r": 8}
    assert needs.checkpoint_bytes(Config(Path("a.yaml"), values)) is None
    (tmp_path / "config.json").write_text("{}")
    local = values | {"base_model": str(tmp_path)}
    assert needs.checkpoint_bytes(Config(Path("a.yaml"), local)) is None


def test_a_model_in_the_hubs_cache_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = tmp_path / "models--org--name" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert model_folder("org/name") == snapshot
    assert model_folder("org/other") is None


def test_the_weights_of_a_quantised_base_take_less(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(bytes(4000))
    values = {"base_model": str(tmp_path)}
    assert needs.weights_bytes(Config(Path("a.yaml"), values)) == 4000
    assert needs.weights_bytes(Config(Path("a.yaml"), values | {"load_in_4bit": True})) == 1000
