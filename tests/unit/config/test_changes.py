"""What changed since a checkpoint, by meaning; nothing here trains."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file

from leviathan_train.checkpoints import store as checkpoints
from leviathan_train.checkpoints.origin import origin_of
from leviathan_train.config import versions
from leviathan_train.config.changes import Change, Topic, changes_since
from leviathan_train.config.effects import NO_EFFECT, ORDER, REFUSED, TAKES_EFFECT, Effect
from leviathan_train.config.inputs import input_facts
from leviathan_train.config.load import load_config
from leviathan_train.run.folder import Run
from support import shapes
from support.demo import PLUGIN, ROOT, Demo, MakeConfig
from support.driver import leviathan

STEP = 20

Compare = Callable[..., list[Change]]


@pytest.fixture
def compare(tmp_path: Path, make_config: MakeConfig) -> Compare:
    """compare({old settings}, new settings...): the changes, in order."""

    def run(old: Mapping[str, Any], *, sealed: bool = True, **new: Any) -> list[Change]:
        checkpoint(make_config(tmp_path, **old), sealed=sealed)
        loaded = load_config(make_config(tmp_path, **{**old, **new}))
        (found,) = checkpoints.scan(Run(tmp_path / "run"))
        return changes_since(origin_of(found), loaded, world_size=1)

    return run


def checkpoint(path: Path, *, sealed: bool = True, **more: Any) -> Path:
    """`checkpoint-20` of the config's run, as that config would have made it."""
    loaded = load_config(path)
    folder = Path(loaded.output_dir)
    shutil.rmtree(folder, ignore_errors=True)
    made = shapes.make(folder, STEP)
    if sealed:
        versions = more.pop("versions", {})
        facts: dict[str, Any] = {"trainer": {"inputs": input_facts(loaded)}, "versions": versions}
        shapes.seal(made, config=dict(loaded.values), **facts | more)
    return made


def since(made: Path, path: Path, **more: Any) -> list[Change]:
    """What differs between the config at `path` and what made a checkpoint."""
    origin = origin_of(checkpoints.inspect(Run(made.parent), made))
    return changes_since(origin, load_config(path), world_size=1, **more)


def effects(found: list[Change]) -> dict[str, str]:
    return {change.key: change.effect for change in found}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"lora_target_modules": ["q", "v"]}, {"lora_target_modules": ["v", "q"]}),
        ({"learning_rate": "1e-4"}, {"learning_rate": 0.0001}),
        ({"learning_rate": 1e-4}, {"learning_rate": "0.00010"}),
        ({"lora_r": 8}, {"lora_r": 8.0}),
        ({"peft_use_dora": None}, {"peft_use_dora": False}),
        ({"lora_modules_to_save": None}, {"lora_modules_to_save": []}),
        ({"seed": None}, {"seed": 42}),
        ({"lora_dropout": None}, {"lora_dropout": 0.0}),
        ({"lr_scheduler": None}, {"lr_scheduler": "cosine"}),
        ({"gradient_accumulation_steps": None}, {"gradient_accumulation_steps": 1}),
        ({"max_grad_norm": None}, {"max_grad_norm": 1.0}),
        ({"max_steps": 40}, {"resume_from_checkpoint": "x", "strict": False}),
        ({"plugins": [PLUGIN]}, {"plugins": None}),
        ({"plugins": ["a.B", PLUGIN]}, {"plugins": ["a:B"]}),
        ({"nf4_backend": None}, {"nf4_backend": "bitsandbytes"}),
        ({"balance_labels": None}, {"balance_labels": False}),
    ],
)  # fmt: skip
def test_another_way_to_say_the_same_is_no_change(
    compare: Compare, old: dict[str, Any], new: dict[str, Any]
) -> None:
    assert compare(old, **new) == []


def test_a_base_model_in_another_folder_is_no_change(
    compare: Compare, demo: Demo, tmp_path: Path
) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(demo.model, moved)
    assert compare({}, base_model=str(moved)) == []
    assert compare({"tokenizer_config": str(demo.model)}, base_model=str(moved)) == []
    (moved / "config.json").write_text("{}")
    assert effects(compare({}, base_model=str(moved))) == {"base_model": "refused"}


def test_a_base_model_whose_files_changed_under_its_name_is_refused(
    tmp_path: Path, make_config: MakeConfig, demo: Demo
) -> None:
    model = tmp_path / "model"
    shutil.copytree(demo.model, model)
    path = make_config(tmp_path, base_model=str(model))
    made = checkpoint(path)
    (model / "model.safetensors").write_bytes(b"another")
    (change,) = since(made, path)
    assert (change.key, change.effect) == ("base_model", "refused")
    assert change.topic is Topic.BASE_MODEL


def test_other_weights_under_another_name_are_refused(
    compare: Compare, demo: Demo, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(demo.model, other)
    weights = load_file(other / "model.safetensors")
    head = max(weights)
    save_file(weights | {head: weights[head] * 1.01}, other / "model.safetensors")
    assert effects(compare({}, base_model=str(other))) == {"base_model": "refused"}


def test_a_seal_without_a_fingerprint_is_told_and_not_asked_about(
    tmp_path: Path, make_config: MakeConfig
) -> None:
    path = make_config(tmp_path)
    facts = input_facts(load_config(path))
    old = {key: facts["base"][key] for key in ("name", "config", "bytes")}
    made = checkpoint(path, trainer={"inputs": facts | {"base": old}})
    (change,) = since(made, path)
    assert (change.topic, change.effect) == (Topic.BASE_MODEL, Effect.NOTED)
    assert not change.needs_yes
    made = checkpoint(path, trainer={"inputs": facts | {"base": old | {"bytes": 1}}})
    assert effects(since(made, path)) == {"base_model": "refused"}


def test_another_revision_is_judged_by_its_weights(
    compare: Compare, tmp_path: Path, demo: Demo, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert compare({}, revision_of_model="v2") == []
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    for name, config in (("v1", "{}"), ("v2", '{"a": 1}')):
        snapshot = tmp_path / "hub/models--org--name/snapshots" / name
        shutil.copytree(demo.model, snapshot)
        (snapshot / "config.json").write_text(config)
    found = compare({"base_model": "org/name", "revision_of_model": "v1"}, revision_of_model="v2")
    assert effects(found)["revision_of_model"] == "refused"


@pytest.mark.parametrize("effect", ["refused", "changes the data order", "takes effect"])
def test_each_key_of_the_tables_has_its_effect(
    tmp_path: Path, make_config: MakeConfig, effect: str
) -> None:
    path = make_config(tmp_path)
    made = checkpoint(path)
    found = checkpoints.inspect(Run(made.parent), made)
    for key in EFFECTS[effect]:
        if key == "revision_of_model":
            continue  # judged by the weights
        value = {"plugins": "[other.Plugin]"}.get(
            key, "77" if effect == "takes effect" else "other"
        )
        loaded = load_config(path, [f"{key}={value}"])
        (change,) = [one for one in changes_since(origin_of(found), loaded) if one.key == key]
        assert change.effect == effect, key
        assert change.needs_yes == (effect == "changes the data order"), key


def test_any_other_key_takes_effect(compare: Compare) -> None:
    (change,) = compare({}, dataloader_num_workers=2)
    assert change.effect == "takes effect"


def test_refused_ones_come_first(compare: Compare) -> None:
    found = compare({}, learning_rate=1, seed=7, lora_r=4)
    assert [change.key for change in found] == ["lora_r", "seed", "learning_rate"]


@pytest.mark.parametrize("sealed", [True, False])
def test_an_end_that_is_already_past_is_refused(compare: Compare, sealed: bool) -> None:
    found = compare({"max_steps": 40} | ADAPTER, sealed=sealed, max_steps=10)
    assert effects(found)["max_steps"] == "refused"
    assert "step 20" in found[0].why


def test_epochs_that_are_already_past_are_refused_unless_the_steps_decide(
    compare: Compare,
) -> None:
    # the checkpoint stands at epoch 0.2
    assert effects(compare({"num_epochs": 3}, num_epochs=0.1)) == {"num_epochs": "refused"}
    by_steps = compare({"num_epochs": 3, "max_steps": 40}, num_epochs=0.1)
    assert effects(by_steps) == {"num_epochs": "has no effect"}


@pytest.mark.parametrize(
    ("old", "new", "effect"),
    [
        ("cosine", "linear", "takes effect"),
        (None, "constant", "takes effect"),
        ("cosine", "rex", "refused"),
        ("rex", "cosine", "refused"),
        ("cosine", "one_cycle", "refused"),
        ("one_cycle", "cosine", "refused"),
        ("rex", "one_cycle", "refused"),
    ],
)
def test_a_schedule_with_a_state_of_its_own_cannot_take_anothers(
    compare: Compare, old: str | None, new: str, effect: str
) -> None:
    assert effects(compare({"lr_scheduler": old}, lr_scheduler=new)) == {"lr_scheduler": effect}


@pytest.mark.parametrize(
    "change", [{"micro_batch_size": 4}, {"seed": 7}, {"label_balance_window_optim_steps": 2}]
)
def test_what_moves_rows_is_refused_where_labels_are_balanced(
    compare: Compare, change: dict[str, Any]
) -> None:
    assert list(effects(compare({}, **change)).values()) == ["changes the data order"]
    (found,) = compare({"balance_labels": True}, **change)
    assert found.effect is Effect.REFUSED
    assert "balance_labels" in found.why
    assert effects(compare({}, balance_labels=True)) == {"balance_labels": "changes the data order"}


def test_another_adapter_to_begin_with_has_no_effect_on_a_resume(compare: Compare) -> None:
    (change,) = compare({}, lora_model_dir="./run/checkpoint-20")
    assert change.effect is Effect.NONE
    assert not change.needs_yes


# -- without a seal --------------------------------------------------------------------

ADAPTER = {"lora_alpha": None, "lora_r": 8, "lora_target_linear": True}
"""The settings that `shapes.lora` writes into `adapter_config.json`."""


def test_a_checkpoint_of_plain_axolotl_is_judged_by_its_own_files(compare: Compare) -> None:
    assert compare(ADAPTER, sealed=False) == []
    assert effects(compare(ADAPTER, sealed=False, lora_r=4)) == {"lora_r": "refused"}
    assert effects(compare(ADAPTER, sealed=False, lora_alpha=4)) == {"lora_alpha": "refused"}
    assert effects(compare(ADAPTER, sealed=False, adapter=None)) == {"adapter": "refused"}


def test_its_batch_size_base_model_and_modules_are_known_too(
    tmp_path: Path, make_config: MakeConfig
) -> None:
    settings = ADAPTER | {"lora_target_linear": None, "lora_target_modules": ["v", "q"]}
    path = make_config(tmp_path, **settings)
    made = checkpoint(path, sealed=False)
    adapter = {
        "r": 8,
        "target_modules": ["q", "v"],
        "modules_to_save": None,
        "base_model_name_or_path": "/old/place/model",
    }
    (made / "adapter_config.json").write_text(json.dumps(adapter))
    state = json.loads((made / "trainer_state.json").read_text())
    (made / "trainer_state.json").write_text(json.dumps(state | {"train_batch_size": 2}))
    (found,) = checkpoints.scan(Run(made.parent))
    assert changes_since(origin_of(found), load_config(path)) == []
    other = load_config(make_config(tmp_path, **settings, micro_batch_size=4, base_model="x/y"))
    assert effects(changes_since(origin_of(found), other)) == {
        "base_model": "refused",
        "micro_batch_size": "changes the data order",
    }


# -- beside the config -----------------------------------------------------------------


def test_a_changed_data_file_is_asked_about(tmp_path: Path, make_config: MakeConfig) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text('{"instruction": "a", "output": "b"}\n')
    path = make_config(tmp_path, datasets=[{"path": str(data), "type": "alpaca"}])
    made = checkpoint(path)
    found = checkpoints.inspect(Run(made.parent), made)
    assert changes_since(origin_of(found), load_config(path)) == []
    with data.open("a") as stream:
        stream.write('{"instruction": "c", "output": "d"}\n')
    (change,) = changes_since(origin_of(found), load_config(path))
    assert (change.key, change.effect) == (f"data file {data}", "asked")
    assert change.topic is Topic.DATA_FILE


def test_a_key_that_nobody_reads_is_not_said_to_take_effect(
    tmp_path: Path, make_config: MakeConfig
) -> None:
    made = checkpoint(make_config(tmp_path))
    (unknown,) = since(made, make_config(tmp_path, lora_rr=8))
    assert (unknown.key, unknown.effect) == ("lora_rr", Effect.NONE)
    (known,) = since(made, make_config(tmp_path, logging_steps=7))
    assert known.effect is not Effect.NONE
    (foreign,) = since(made, make_config(tmp_path, lora_rr=8, plugins=["their.own.Plugin"]))[:1]
    assert foreign.effect is not Effect.NONE, "the plugin may read it"


def test_a_data_file_that_was_only_touched_is_no_change(
    tmp_path: Path, make_config: MakeConfig
) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text('{"instruction": "a", "output": "b"}\n')
    path = make_config(tmp_path, datasets=[{"path": str(data), "type": "alpaca"}])
    made = checkpoint(path)
    os.utime(data, (5, 5))
    assert since(made, path) == []


@pytest.mark.parametrize(
    ("package", "old", "new", "effect", "told"),
    [
        ("axolotl", "0.19.0", "0.21.0", Effect.ASKED, "prepared again"),
        ("axolotl", "0.19.0", "0.20.3", Effect.ASKED, "FSDP version 1"),
        ("axolotl", "0.21.0", "0.19.0", Effect.ASKED, "prepared again"),
        ("axolotl", "0.21.0", "0.22.0", Effect.ASKED, "not known"),
        ("axolotl", "0.21.0", "0.21.1", Effect.NOTED, ""),
        ("torch", "2.13.0", "2.14.1+cpu", Effect.NOTED, ""),
        ("torch", "2.14.1", "3.0.0", Effect.ASKED, ""),
        ("transformers", "5.16.1", "5.20.1", Effect.NOTED, ""),
        ("transformers", "4.57.0", "5.0.0", Effect.ASKED, ""),
        ("peft", "0.20.0", "0.21.2", Effect.NOTED, ""),
    ],
)
def test_an_upgrade_is_told_with_what_it_changes(
    monkeypatch: pytest.MonkeyPatch,
    package: str,
    old: str,
    new: str,
    effect: Effect,
    told: str,
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: new)
    ((name, before, now, found, why),) = versions.changed({package: old, "leviathan": "0.1"}, {})
    assert (name, before, now, found) == (package, old, new, effect)
    assert told in why


def test_an_adapter_on_the_head_is_asked_about_with_another_peft(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.21.2")
    settings = {"lora_target_modules": ["q_proj", "lm_head"]}
    ((*_, effect, why),) = versions.changed({"peft": "0.20.0"}, settings)
    assert effect is Effect.ASKED
    assert "tied head" in why


@pytest.mark.parametrize(("version", "effect"), [("1.0.0", "asked"), ("2.0.0", "noted")])
def test_other_versions_are_told_and_a_major_step_is_asked_about(
    tmp_path: Path, make_config: MakeConfig, version: str, effect: str
) -> None:
    path = make_config(tmp_path)
    made = checkpoint(path, versions={"torch": version, "leviathan": "0.0.1"})
    (change,) = since(made, path)
    assert (change.key, change.effect) == ("version of torch", effect)


@pytest.mark.parametrize("sealed", [True, False])
def test_another_number_of_processes_moves_the_rows(
    tmp_path: Path, make_config: MakeConfig, sealed: bool
) -> None:
    path = make_config(tmp_path, **ADAPTER)
    made = checkpoint(path, sealed=sealed)
    found = checkpoints.inspect(Run(made.parent), made)
    assert changes_since(origin_of(found), load_config(path), world_size=1) == []
    (change,) = changes_since(origin_of(found), load_config(path), world_size=2)
    assert (change.old, change.new, change.effect) == (1, 2, "changes the data order")


@pytest.mark.parametrize(
    ("then", "now", "accumulation", "effect", "told"),
    [
        (1, 2, 4, "changes the data order", "gradient_accumulation_steps: 2 keeps them"),
        (1, 2, 2, "asked", "8 rows a step as before"),
        (2, 1, 8, "asked", "16 rows a step as before"),
        (2, 1, 4, "changes the data order", "gradient_accumulation_steps: 8 keeps them"),
        (1, 3, 4, "changes the data order", "nothing keeps them"),
    ],
)
def test_another_number_of_processes_is_told_with_what_keeps_the_batch(
    tmp_path: Path,
    make_config: MakeConfig,
    then: int,
    now: int,
    accumulation: int,
    effect: str,
    told: str,
) -> None:
    config = make_config(tmp_path, micro_batch_size=2, gradient_accumulation_steps=4)
    made = checkpoint(config, world_size=then)
    path = make_config(tmp_path, micro_batch_size=2, gradient_accumulation_steps=accumulation)
    origin = origin_of(checkpoints.inspect(Run(made.parent), made))
    found = changes_since(origin, load_config(path), world_size=now)
    change = next(one for one in found if one.key == "number of processes")
    assert (change.old, change.new, change.effect) == (then, now, effect)
    assert told in change.why
    others = {one.key: one.effect for one in found if one is not change}
    kept = effect == "asked"
    expected = {} if accumulation == 4 else {"gradient_accumulation_steps": "takes effect"}
    assert others == expected or not kept
    assert change.needs_yes


def test_packed_rows_come_in_another_order_on_other_processes(
    tmp_path: Path, make_config: MakeConfig
) -> None:
    old = make_config(tmp_path, sample_packing=True, gradient_accumulation_steps=4)
    made = checkpoint(old, world_size=1)
    path = make_config(tmp_path, sample_packing=True, gradient_accumulation_steps=2)
    origin = origin_of(checkpoints.inspect(Run(made.parent), made))
    found = {one.key: one for one in changes_since(origin, load_config(path), world_size=2)}
    assert found["number of processes"].effect == "changes the data order"
    assert "packed rows" in found["number of processes"].why
    assert found["gradient_accumulation_steps"].effect == "changes the data order"


def test_what_deepspeed_cannot_divide_anew_is_refused(
    tmp_path: Path, make_config: MakeConfig
) -> None:
    path = make_config(tmp_path, deepspeed="zero2.json")
    made = checkpoint(path, world_size=2)
    origin = origin_of(checkpoints.inspect(Run(made.parent), made))
    (change,) = changes_since(origin, load_config(path), world_size=1)
    assert change.effect == "refused"


# -- through the command ---------------------------------------------------------------


def test_the_command_refuses_in_under_a_second(
    tmp_path: Path, make_config: MakeConfig, env: dict[str, str]
) -> None:
    path = make_config(tmp_path)
    checkpoint(path)
    leviathan("train", path, "--dry-run", cwd=tmp_path, env=env, check=0)  # Axolotl was asked once
    before = os.times()
    done = leviathan("train", path, "--set", "lora_r=4", cwd=tmp_path, env=env, check=2)
    after = os.times()
    used = after.children_user + after.children_system
    used -= before.children_user + before.children_system  # time that no other process can take
    assert "lora_r" in done.stderr and "was 8" in done.stderr
    assert "Traceback" not in done.stderr
    assert used < 1.0
    assert not (tmp_path / "run/.leviathan/sessions").exists()


def test_another_base_of_the_same_architecture_is_refused_in_under_a_second(
    tmp_path: Path, make_config: MakeConfig, demo: Demo, env: dict[str, str]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(demo.model, other)
    weights = load_file(other / "model.safetensors")
    name = min(weights)  # the head or the embedding; norms are all ones
    save_file(weights | {name: weights[name].flip(0).contiguous()}, other / "model.safetensors")
    path = make_config(tmp_path)
    checkpoint(path)
    leviathan("train", path, "--dry-run", cwd=tmp_path, env=env, check=0)  # Axolotl was asked once
    before = os.times()
    done = leviathan("train", path, "--set", f"base_model={other}", cwd=tmp_path, env=env, check=2)
    after = os.times()
    used = after.children_user + after.children_system
    used -= before.children_user + before.children_system
    assert "base_model must stay as in checkpoint-20" in done.stderr
    assert used < 1.0


def test_without_a_terminal_another_order_needs_yes(
    tmp_path: Path, make_config: MakeConfig, env: dict[str, str]
) -> None:
    path = make_config(tmp_path)
    made = checkpoint(path)
    command = ("train", path, "--set", "seed=7")
    done = leviathan(*command, cwd=tmp_path, env=env, check=2)
    assert "seed" in done.stderr and "--yes" in done.stderr
    done = leviathan(*command, "--yes", "--dry-run", cwd=tmp_path, env=env, check=0)
    assert "seed: 42 -> 7: changes the data order" in done.stdout
    assert f"--resume_from_checkpoint={made}" in done.stdout


@pytest.mark.parametrize("key", ["learning_rate", "save_steps", "eval_steps"])
def test_the_guides_own_settings_are_never_refused(
    tmp_path: Path, make_config: MakeConfig, env: dict[str, str], key: str
) -> None:
    path = make_config(tmp_path)
    checkpoint(path)
    done = leviathan(
        "train", path, "--set", f"{key}=5", "--dry-run", cwd=tmp_path, env=env, check=0
    )
    assert re.search(rf"{key}: .* -> 5: takes effect", done.stdout)


# -- the documentation -----------------------------------------------------------------

EFFECTS = {
    "refused": REFUSED,
    "changes the data order": ORDER,
    "takes effect": TAKES_EFFECT,
    "has no effect": NO_EFFECT,
}


def test_the_table_in_the_docs_says_what_the_code_does() -> None:
    text = (ROOT / "docs/resume.md").read_text(encoding="utf-8")
    documented: dict[str, str] = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3 and cells[1] in EFFECTS:
            for key in re.findall(r"`([a-z_0-9]+)`", cells[0]):
                documented[key] = cells[1]
    known = {key: effect for effect, table in EFFECTS.items() for key in table}
    assert documented == known


def test_the_example_of_the_docs_is_a_config() -> None:
    text = (ROOT / "docs/resume.md").read_text(encoding="utf-8")
    for block in re.findall(r"```yaml\n(.*?)```", text, re.S):
        assert isinstance(yaml.safe_load(block), dict)


def test_each_key_of_our_own_says_what_a_change_of_it_does() -> None:
    from leviathan_train.config.arguments import LeviathanArgs
    from leviathan_train.config.effects import TAKES_EFFECT

    assert set(LeviathanArgs.model_fields) <= set(TAKES_EFFECT)
