"""A key that Axolotl would drop is found; a key that it reads in any way is not."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from leviathan_train.config import keys
from leviathan_train.config.keys import duplicate_keys, unknown_keys
from leviathan_train.config.load import Config, load_config

ROOT = Path(__file__).resolve().parents[3]
SPEC = importlib.util.find_spec("axolotl")  # found without being imported
EXAMPLES = sorted(
    path
    for folder in (SPEC.submodule_search_locations or [] if SPEC else [])
    for path in Path(folder).glob("integrations/*/examples/*.yaml")
)


def of(**values: Any) -> list[keys.Unknown]:
    return unknown_keys(Config(Path("config.yaml"), values))


@pytest.mark.axolotl
def test_the_list_is_what_the_installed_axolotl_knows() -> None:
    script = ROOT / "scripts" / "generate_keys.py"
    done = subprocess.run(
        [sys.executable, script, "--check"], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


def test_our_own_keys_are_those_of_the_plugin() -> None:
    tree = ast.parse((ROOT / "src/leviathan_train/trainer/plugin.py").read_text(encoding="utf-8"))
    (model,) = (
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and node.name == "LeviathanArgs"
    )
    fields = {
        node.target.id
        for node in model.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    assert fields == keys.OURS


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_the_shipped_configs_are_clean(path: Path) -> None:
    assert unknown_keys(load_config(path)) == []
    assert duplicate_keys(path) == []


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_axolotls_own_examples_are_clean(path: Path) -> None:
    assert unknown_keys(Config(path, yaml.safe_load(path.read_text(encoding="utf-8")))) == []


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
        ({"xyzzy": 1}, "xyzzy", None),
    ],
)
def test_a_typo_is_found_with_what_was_meant(
    values: dict[str, Any], path: str, nearest: str | None
) -> None:
    (found,) = of(**values)
    assert (found.path, found.nearest) == (path, nearest)
    assert path in found.message
    assert not nearest or nearest in found.hint


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
    assert found.plugin == "axolotl.integrations.liger.LigerPlugin"
    assert found.plugin in found.hint
    for name in (found.plugin, "liger.LigerPlugin"):
        assert of(liger_rope=True, plugins=[name]) == []


def test_with_a_plugin_of_others_a_top_level_key_cannot_be_judged() -> None:
    top, nested = of(plugins=["other.Plugin"], xyzzy=1, trl={"xyzzy": 1})
    assert top.maybe_of_plugin
    assert not nested.maybe_of_plugin


def test_the_line_is_told_or_the_option(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("output_dir: a\n# comment\ndatasets:\n  - path: a\n    pathh: b\nfoo: 1\n")
    found = unknown_keys(load_config(path, ["bar=1", "trl.betaa=2"]))
    assert [(item.path, item.line) for item in found] == [
        ("datasets[0].pathh", 5),
        ("foo", 6),
        ("bar", None),
        ("trl.betaa", None),
    ]
    assert found[1].where == f"{path}, line 6"
    assert found[2].where == "--set"


def test_a_key_given_twice_is_found_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("learning_rate: 1\ndatasets:\n- path: a\n- path: b\nlearning_rate: 2\n")
    assert duplicate_keys(path) == [("learning_rate", 5)]


def test_it_takes_milliseconds() -> None:
    read = load_config(ROOT / "configs/demo_cpu.yaml", ["learning_rat=1", "lora_rr=2"])
    times = []
    for _ in range(5):
        keys._known.cache_clear()
        keys._tree.cache_clear()
        start = time.process_time()
        unknown_keys(read)
        times.append(time.process_time() - start)
    assert min(times) < 0.03
