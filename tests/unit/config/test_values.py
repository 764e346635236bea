"""A value is refused only if the real Axolotl refuses it, or no training can use it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from leviathan_train.config import schema, values
from leviathan_train.config.load import PLUGIN
from leviathan_train.config.values import Wrong, wrong_values
from support import judged
from support.demo import MakeConfig
from support.forked import Forge


def of(given: dict[str, Any], plugins: list[str] | None = None) -> list[Wrong]:
    known = schema.ask([*(plugins or []), PLUGIN])
    return wrong_values(given | ({"plugins": plugins} if plugins else {}), known)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"lora_alpha": "many"}, "lora_alpha: many should be a valid integer"),
        ({"micro_batch_size": "two"}, "micro_batch_size: two should be a valid integer"),
        ({"micro_batch_size": 1.5}, "micro_batch_size: 1.5 should be a valid integer"),
        ({"num_epochs": None}, "num_epochs: null should be a valid number"),
        ({"bf16": "maybe"}, "bf16: maybe should be 'auto' or be a valid boolean"),
        ({"lora_modules_to_save": "lm_head"}, "lora_modules_to_save: lm_head should be a valid"),
        ({"trl": {"beta": "x"}}, "trl.beta: x should be a valid number"),
        ({"lora_rank_pattern": {"a": 0}}, "lora_rank_pattern.a: 0 should be greater than 0"),
        ({"lr_groups": [{"name": "a", "modules": []}]}, "lr_groups[0].lr is missing"),
        ({"datasets": [{"path": "a", "shards": "x"}]}, "datasets[0].shards: x should be"),
        ({"leviathan_save_minutes": 0}, "leviathan_save_minutes: 0 should be greater than 0"),
        ({"learning_rate": "abc"}, "learning_rate: abc must be a number"),
        ({"learning_rate": float("nan")}, "learning_rate: nan must be a number"),
        ({"learning_rate": "-1e-4"}, "learning_rate: -1e-4 must be at least 0"),
        ({"adapter": "lora", "lora_r": -1}, "lora_r: -1 must be at least 1"),
        ({"num_epochs": 0}, "num_epochs: 0 must be greater than 0"),
        ({"save_strategy": False}, "save_strategy: false should be a valid string"),
    ],
    ids=str,
)
def test_a_wrong_value_is_told_with_what_it_should_be(given: dict[str, Any], text: str) -> None:
    (wrong,) = of(given)
    assert wrong.text.startswith(text)
    assert wrong.is_certain


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ({"optimizer": "adamw_torh"}, "adamw_torch?"),
        ({"lr_scheduler": "cosin"}, "cosine?"),
        ({"save_strategy": "epochs"}, "epoch?"),
        ({"eval_strategy": "step"}, "steps?"),
        ({"attn_implementation": "flash_atention_2"}, "flash_attention_2?"),
        ({"chat_template": "chatmll"}, "chatml?"),
        ({"rl": "dpoo"}, "dpo?"),
        ({"adapter": "qlorra"}, "qlora?"),
        ({"datasets": [{"path": "a", "type": "alpacca"}]}, "alpaca?"),
        ({"datasets": [{"path": "a", "type": "alpacca:chat"}]}, "alpaca:chat?"),
        ({"rl": "dpo", "datasets": [{"path": "a", "type": "chatlm.intel"}]}, "chatml.intel?"),
        ({"lr_scheduler": "xyzzy"}, "Choose one of: linear,"),
    ],
    ids=str,
)
def test_a_misspelled_name_is_told_with_the_nearest(given: dict[str, Any], hint: str) -> None:
    (wrong,) = of(given)
    assert wrong.hint.removesuffix(".").endswith(hint) or wrong.hint.startswith(hint)


@pytest.mark.parametrize(
    "given",
    [
        {"learning_rate": "1e-4", "weight_decay": "0.1", "lora_r": "8", "micro_batch_size": 2.0},
        {"bf16": "auto", "fp16": "yes", "load_in_4bit": 1, "lora_target_linear": "on"},
        {"lora_target_modules": "all-linear", "lora_r": 0},  # no adapter: nobody reads it
        {"num_epochs": 0, "max_steps": 10, "save_steps": 0, "eval_steps": 0, "max_grad_norm": -1},
        {"gradient_accumulation_steps": 0, "batch_size": 8, "save_steps": 0.25},
        {"optimizer": "came_pytorch", "lr_scheduler": "rex", "rl": "grpo", "save_strategy": "no"},
        {"optimizer": None, "lr_scheduler": "", "adapter": None, "datasets": None},
        {"attn_implementation": "kernels-community/flash-attn2"},
        {"datasets": [{"path": "tokenised", "type": "whatever"}]},
        {"datasets": [{"path": "a", "type": "completion"}, {"path": "b", "type": {}}, "c"]},
        {"datasets": [{"path": "a", "type": "json.load"}, {"path": "a", "type": "alpaca:chat"}]},
        {"datasets": [{"path": "a", "type": "alpacca"}], "skip_prepare_dataset": True},
        {"rl": "kto", "datasets": [{"path": "a", "type": "llama3.argilla"}]},
        {"trl": {}, "max_memory": {0: "1GB"}, "deepspeed": {"a": 1}, "fsdp_config": {"version": 2}},
        {"unknown": "x", "plugins": "one.Plugin"},
        {"resume_from_checkpoint": True, "strict": "yes"},
    ],
    ids=str,
)
def test_what_axolotl_understands_is_not_refused(given: dict[str, Any]) -> None:
    assert of(given) == []


def test_a_plugin_may_bring_an_adapter() -> None:
    assert of({"adapter": "mora"}) != []
    assert of({"adapter": "mora"}, ["axolotl.integrations.mora.MoraPlugin"]) == []


def test_no_credential_is_quoted() -> None:
    (wrong,) = of({"comet_api_key": ["abcdef"]})
    assert "abcdef" not in wrong.text


SOME: list[Any] = [None, True, 0, -1, 3, 1.5, "abc", "", "1", "1e-4", "yes", "auto", [], ["a"], {}]
MORE: list[Any] = [
    *SOME,
    *[False, 1, 1e-4, 10**10, "1.0", "2.5", "true", "no", "off", "steps"],
    *[[1], {"a": 1}, {"a": "b"}, [{"a": 1}], [None], [[1, 2]], {"size": "x"}],
]
FEW_KEYS = ("lora_r", "learning_rate", "bf16", "datasets")


def refused_by_axolotl(pairs: list[tuple[str, Any]], env: dict[str, str]) -> list[str | None]:
    """Why the real Axolotl refuses each, None where it does not; asked in one child."""
    done = subprocess.run(
        [sys.executable, judged.__file__],
        input=json.dumps(pairs),
        capture_output=True,
        text=True,
        env=env,
        check=True,
    )
    answer: list[str | None] = json.loads(done.stdout)
    return answer


def false_alarms_and_agreed(
    pairs: list[tuple[str, Any]], env: dict[str, str]
) -> tuple[list[tuple[str, Any]], int]:
    """What we refuse by its type and Axolotl takes; and how many both refuse."""
    known = schema.ask([PLUGIN])
    ours = [
        any(wrong.path[0] == key for wrong in values._mistyped(judged.BASE | {key: value}, known))
        for key, value in pairs
    ]
    theirs = refused_by_axolotl(pairs, env)
    both = list(zip(pairs, ours, theirs, strict=True))
    alarms = [pair for pair, our, their in both if our and their is None]
    return alarms, sum(our and their is not None for _, our, their in both)


def test_sixty_values_are_judged_as_axolotl_judges_them(env: dict[str, str]) -> None:
    pairs = [(key, value) for key in FEW_KEYS for value in SOME]
    assert len(pairs) == 60
    alarms, agreed = false_alarms_and_agreed(pairs, env)
    assert alarms == []
    assert agreed > 20


@pytest.mark.slow
def test_no_key_of_axolotl_raises_a_false_alarm(env: dict[str, str]) -> None:
    known = schema.ask([PLUGIN]).keys
    ours = {"plugins", "strict", "use_ray", "axolotl_config_path"}
    names = [key for key in known if key not in ours and not key.startswith("leviathan_")]
    alarms, agreed = false_alarms_and_agreed([(key, v) for key in names for v in MORE], env)
    assert alarms == []
    assert agreed > 5000


IMPOSSIBLE: list[dict[str, Any]] = [
    {"dataloader_num_workers": -1},
    {"eval_batch_size": -1},
    {"learning_rate": -0.001},
    {"learning_rate": "abc"},
    {"logging_steps": 0},
    {"lora_dropout": 1.5},
    {"lora_r": 0},
    {"micro_batch_size": 0},
    {"seed": -1},
    {"sequence_len": 0},
    {"val_set_size": -1, "eval_steps": None},
    {"warmup_steps": -1},
    {"optimizer": "adamm"},
    {"lr_scheduler": "cosinee"},
    {"adapter": "lorra"},
    {"save_strategy": "stepz", "save_steps": None},
    {"eval_strategy": "stepz", "eval_steps": None},
    {"attn_implementation": "sdpaa"},
    {"datasets": [{"path": "data", "ds_type": "json", "type": "alpacca"}]},
]
USELESS: list[dict[str, Any]] = [{"num_epochs": 0, "max_steps": None}]


@pytest.fixture(scope="module")
def forge(env: dict[str, str]) -> Iterator[Forge]:
    with Forge(env | {"ACCELERATE_USE_CPU": "true"}) as client:
        yield client


@pytest.mark.train
@pytest.mark.slow
@pytest.mark.parametrize("given", [*IMPOSSIBLE, *USELESS], ids=str)
def test_what_the_tables_refuse_no_training_can_use(
    forge: Forge, make_config: MakeConfig, tmp_path: Path, given: dict[str, Any]
) -> None:
    assert of({"adapter": "lora"} | given) != []
    small = {"plugins": [], "max_steps": 2, "num_epochs": 1, "eval_steps": 2, "save_steps": 2}
    if "datasets" in given:
        make_config(tmp_path)
        given = {"datasets": [given["datasets"][0] | {"path": str(data_of(tmp_path))}]}
        small["dataset_prepared_path"] = str(tmp_path / "prepared")
    done = forge.train(make_config(tmp_path, **(small | given)))
    assert done.code != 0 or (given in USELESS and not list(done.run.glob("checkpoint-*")))


def data_of(folder: Path) -> Path:
    import yaml

    config = yaml.safe_load((folder / "config.yaml").read_text())
    return Path(config["datasets"][0]["path"])
