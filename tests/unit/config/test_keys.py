"""A key that Axolotl would drop is found; a key that it reads in any way is not."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from leviathan_train.config import keys
from leviathan_train.config.arguments import LeviathanArgs
from leviathan_train.config.keys import Kind, Problem, problems
from leviathan_train.config.load import Config, load_config

ROOT = Path(__file__).resolve().parents[3]
SPEC = importlib.util.find_spec("axolotl")  # found without being imported
EXAMPLES = sorted(
    path
    for folder in (SPEC.submodule_search_locations or [] if SPEC else [])
    for path in Path(folder).glob("integrations/*/examples/*.yaml")
)


def of(**values: Any) -> list[Problem]:
    """The problems with keys, whatever their values."""
    found = problems(Config(Path("config.yaml"), values))
    return [problem for problem in found if problem.kind is not Kind.VALUE]


def test_our_own_keys_are_known() -> None:
    assert of(**dict.fromkeys(LeviathanArgs.model_fields, 1)) == []
    assert "leviathan_save_minutes" in LeviathanArgs.model_fields


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_the_shipped_configs_are_clean(path: Path) -> None:
    assert problems(load_config(path)) == []


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_axolotls_own_examples_are_clean(path: Path) -> None:
    assert problems(Config(path, yaml.safe_load(path.read_text(encoding="utf-8")))) == []


def test_axolotl_ships_examples_to_try() -> None:
    assert len(EXAMPLES) >= 5


@pytest.mark.parametrize(
    ("values", "path", "nearest"),
    [
        ({"learning_rat": 1}, "learning_rat", "learning_rate"),
        ({"datasets": [{"path": "a"}, {"pathh": "b"}]}, "datasets[1].pathh", "datasets[1].path"),
        ({"lora_target_modulez": []}, "lora_target_modulez", "lora_target_modules"),
        ({"trl": {"betaa": 1}}, "trl.betaa", "trl.beta"),
        (
            {"datasets": [{"type": {"field_systm": "x"}}]},
            "datasets[0].type.field_systm",
            "datasets[0].type.field_system",
        ),
        ({"per_device_train_batch_size": 1}, "per_device_train_batch_size", "micro_batch_size"),
        ({"lr": 1}, "lr", "learning_rate"),
        ({"leviathan_save_minute": 1}, "leviathan_save_minute", "leviathan_save_minutes"),
        ({"field_messages": 1}, "field_messages", "datasets[].field_messages"),
        ({"trl": {"learning_rate": 1}}, "trl.learning_rate", "learning_rate"),
        ({"xyzzy": 1}, "xyzzy", None),
    ],
)
def test_a_typo_is_found_with_what_was_meant(
    values: dict[str, Any], path: str, nearest: str | None
) -> None:
    (found,) = of(**values)
    assert (found.kind, found.path) == (Kind.UNKNOWN, path)
    assert path in found.message
    assert found.hint == (f"Did you mean {nearest}?" if nearest else "Correct it, or remove it.")


@pytest.mark.parametrize(
    "values",
    [
        {"model_type": "x", "type_of_model": "x", "model_config": {"a": {"b": 1}}},
        {"evaluation_strategy": "steps", "dataset_processes": 2, "noisy_embedding_alpha": 5},
        {"flash_attention": True, "sdp_attention": True, "gc_steps": 1},
        {"fsdp_config": {"version": 2, "offload_params": True, "fsdp_offload_params": True}},
        {"datasets": [{"path": "a", "message_field_role": "b", "roles": {"x": ["y"]}}]},
        {"datasets": [{"path": "a", "type": {"field_system": "x"}}, {"path": "b", "type": "c"}]},
        {"datasets": [{"field_chosen": "a"}, {"train_on_last_step_only": True}, {"length": 1}]},
        {"optim_args": {"a": {"b": 1}}, "deepspeed": {"zero_optimization": {"stage": 3}}},
        {"max_memory": {0: "1GB", "cpu": "8GB"}, "added_tokens_overrides": {128: "a"}},
        {"strict": True, "plugins": [], "use_ray": False},
    ],
)
def test_nothing_that_axolotl_reads_is_called_unknown(values: dict[str, Any]) -> None:
    assert of(**values) == []


def test_a_key_of_a_bundled_plugin_needs_the_plugin() -> None:
    (found,) = of(liger_rope=True)
    plugin = "axolotl.integrations.liger.LigerPlugin"
    assert plugin in found.hint
    for name in (plugin, "liger.LigerPlugin", "axolotl.integrations.liger:LigerPlugin"):
        assert of(liger_rope=True, plugins=[name]) == []


def test_beside_a_plugin_that_cannot_be_loaded_a_top_level_key_cannot_be_judged() -> None:
    top, nested, _ = of(plugins=["other.Plugin"], xyzzy=1, trl={"xyzzy": 1})
    assert (top.kind, nested.kind) == (Kind.MAYBE_OF_PLUGIN, Kind.UNKNOWN)


@pytest.mark.parametrize(
    ("plugin", "hint"),
    [
        ("axolotl.integrations.liger.LigrPlugin", "axolotl.integrations.liger.LigerPlugin?"),
        ("axolotl.integrations.ligr.LigerPlugin", "axolotl.integrations.liger.LigerPlugin?"),
        ("ligr.LigerPlugin", "axolotl.integrations.liger.LigerPlugin?"),
        ("leviathan.plugin.LeviathanPlugin", "leviathan_train.plugin.LeviathanPlugin?"),
        ("axolotl.integrations.mine.Own", "Install it"),
    ],
)
def test_a_plugin_that_cannot_be_loaded_is_told_with_what_was_meant(plugin: str, hint: str) -> None:
    (found,) = of(plugins=[plugin])
    # Axolotl trains without what it cannot import, and ends where a class is not there.
    assert (found.kind, found.may_pass) == (Kind.PLUGIN, "there is no" in found.message)
    assert f"plugins: {plugin} cannot be loaded: " in found.message
    assert hint in found.hint


def test_the_line_is_told_or_the_option(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("output_dir: a\n# comment\ndatasets:\n  - path: a\n    pathh: b\nfoo: 1\n")
    found = problems(load_config(path, ["bar=1", "trl.betaa=2", "lora_alpha=x"]))
    assert [(item.path, item.line) for item in found] == [
        ("datasets[0].pathh", 5),
        ("foo", 6),
        ("bar", None),
        ("trl.betaa", None),
        ("lora_alpha", None),
    ]
    assert found[1].message.startswith(f"{path}, line 6: key foo ")
    assert all(item.message.startswith("--set: ") for item in found[2:])


def test_a_key_given_twice_is_found_with_both_lines(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("output_dir: a\nlora_r: 1\ndatasets:\n- path: a\n- path: b\nlora_r: 2\n")
    (found,) = problems(load_config(path))
    assert (found.kind, found.path, found.line) == (Kind.TWICE, "lora_r", 6)
    assert f"{path}, lines 2 and 6: key lora_r" in found.message


def test_a_value_taken_from_an_anchor_is_judged_like_any_other(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("output_dir: a\nx: &x {pathh: b}\ndatasets:\n- <<: *x\n  path: a\n")
    assert [item.path for item in problems(load_config(path))] == ["x", "datasets[0].pathh"]


def test_what_may_pass_is_said() -> None:
    typo, wrong = problems(Config(Path("a.yaml"), {"foo": 1, "lora_alpha": "x"}))
    assert typo.may_pass
    assert not wrong.may_pass
    beside_others = {"lora_alpha": "x", "plugins": ["other.Plugin"]}  # it may change the value
    wrong, _ = problems(Config(Path("a.yaml"), beside_others))
    assert wrong.may_pass


def test_it_takes_milliseconds() -> None:
    read = load_config(ROOT / "configs/demo_cpu.yaml", ["learning_rat=1", "lora_rr=2"])
    times = []
    for _ in range(6):
        start = time.process_time()
        assert len(keys.problems(read)) == 2
        times.append(time.process_time() - start)
    assert min(times) < 0.03
