"""Settings that would end a training late are told before it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from leviathan_train.config.load import Config
from leviathan_train.config.pitfalls import Pitfall, home_paths, pitfalls
from support.bases import QWEN3_8B, hollow_base

SMALL = QWEN3_8B | {"num_hidden_layers": 1, "max_position_embeddings": 4096}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hollow_base(tmp_path_factory.mktemp("bases") / "small", SMALL)


def found(folder: Path, base: Path, **values: Any) -> list[Pitfall]:
    data = folder / "data.jsonl"
    data.write_text("{}\n")
    entry = {"path": str(data), **values.pop("entry", {})}
    given = {
        "base_model": str(base),
        "output_dir": str(folder / "run"),
        "dataset_prepared_path": str(folder / "prepared"),
        "datasets": [entry],
    }
    return list(pitfalls(Config(Path("a.yaml"), given | values)))


def test_a_good_config_has_none(tmp_path: Path, base: Path) -> None:
    entry = {"split": "train[:10%]", "shards": 2, "shards_idx": 1}
    targets = ["q_proj", "mlp.down_proj"]
    assert not found(
        tmp_path,
        base,
        entry=entry,
        adapter="lora",
        lora_target_modules=targets,
        lora_modules_to_save=["embed_tokens", "lm_head", "norm"],
        peft_layers_to_transform=[0],
        sequence_len=4096,
    )


@pytest.mark.parametrize(
    "values",
    [
        {"peft_layers_to_transform": [[0, 1]]},
        {"peft_layers_to_transform": [{"a": 1}, True, None]},
        {"peft_layers_to_transform": [5], "peft_layer_replication": [[0, 1], [0, 1]]},
        {"peft_layers_to_transform": [5], "overrides_of_model_config": {"num_hidden_layers": 9}},
        {"lora_modules_to_save": ["mlp", "self_attn", "layers.0.mlp"]},
        {"lora_modules_to_save": ["score"], "reward_model": True},
        {"lora_modules_to_save": [["x"], None], "reward_model": True},
    ],
)
def test_what_peft_may_find_all_the_same_is_none(
    tmp_path: Path, base: Path, values: dict[str, Any]
) -> None:
    assert found(tmp_path, base, adapter="lora", **values) == []


@pytest.mark.parametrize(
    ("values", "fails", "words"),
    [
        ({"lora_target_modules": ["query_key_value"]}, True, "has no query_key_value"),
        ({"lora_target_modules": ["q_proj", "c_attn"]}, False, "has no c_attn"),
        ({"lora_target_modules": ["embed_tokens"]}, False, "has no embed_tokens"),
        ({"adapter": "lora", "lora_modules_to_save": ["gone", "lm_head"]}, False, "has no gone:"),
        ({"adapter": "lora", "peft_layers_to_transform": [99]}, True, "layer 99; its last is 0"),
        ({"adapter": "lora", "peft_layers_to_transform": [0, 1]}, False, "no layer 1; its last"),
        ({"entry": {"split": "test"}}, True, "no splits but train"),
        ({"entry": {"shards": 2, "shards_idx": 2}}, True, "the last is 1"),
        ({"lora_model_dir": "./nowhere"}, True, "lora_model_dir: ./nowhere does not exist"),
        ({"deepspeed": "./zero9.json"}, True, "deepspeed: ./zero9.json does not exist"),
        ({"deepspeed": "zero9.json"}, True, "deepspeed: zero9.json does not exist"),
        ({"sequence_len": 8192}, False, "made for 4096 tokens"),
        ({"val_set_size": 1}, True, "none trained on"),
        ({"val_set_size": 1.5}, False, "so 1 are held back"),
        ({"val_set_size": 100, "rl": "dpo"}, True, "with rl Axolotl takes a share only"),
    ],
)
def test_a_pitfall_is_named(
    tmp_path: Path, base: Path, values: dict[str, Any], fails: bool, words: str
) -> None:
    (one,) = found(tmp_path, base, **values)
    assert words in one.message and one.hint
    assert one.fails == fails


def test_a_deepspeed_that_is_not_installed_is_told(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (one,) = found(tmp_path, base, deepspeed={"zero_optimization": {"stage": 2}})
    assert one.fails and "package is not installed" in one.message


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"output_dir": "~/run"}, "output_dir: ~/run: Axolotl takes ~ for the name"),
        ({"datasets": [{"path": "json", "data_files": ["~/a.jsonl"]}]}, "[0].data_files: ~/a.j"),
        ({"test_datasets": [{"path": "~/a"}]}, "test_datasets[0].path: ~/a:"),
    ],
)
def test_a_path_in_the_home_folder_is_told_with_how_to_write_it(
    values: dict[str, Any], words: str
) -> None:
    (one,) = home_paths(Config(Path("a.yaml"), values))
    assert words in one.message and one.hint.startswith(f"Write  {Path.home()}/")


def test_a_file_whose_name_begins_with_a_tilde_is_no_home_folder() -> None:
    named = {"datasets": [{"path": "~nobody-of-this-name/a"}, {"path": "a~b"}]}
    assert not list(home_paths(Config(Path("a.yaml"), named)))


def test_a_prepared_path_that_is_a_file_is_named(tmp_path: Path, base: Path) -> None:
    file = tmp_path / "prepared"
    file.write_text("")
    (one,) = found(tmp_path, base)
    assert "is a file" in one.message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_nobody_may_write_to_is_named(tmp_path: Path, base: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    (one,) = found(tmp_path, base, output_dir=str(closed / "run"))
    assert "nothing can be written" in one.message


def test_a_base_that_is_not_here_is_not_judged(tmp_path: Path) -> None:
    away = Path("org/not-here")
    assert not found(tmp_path, away, lora_target_modules=["c_attn"], sequence_len=10**6)
