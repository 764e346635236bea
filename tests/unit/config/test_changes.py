"""What changed since a checkpoint, by meaning; nothing here trains."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from leviathan_train.checkpoints import store as checkpoints
from leviathan_train.checkpoints.origin import origin_of
from leviathan_train.config.changes import Change, Topic, changes_since
from leviathan_train.config.effects import NO_EFFECT, ORDER, REFUSED, TAKES_EFFECT
from leviathan_train.config.inputs import input_facts
from leviathan_train.config.load import load_config
from leviathan_train.run.folder import Run
from support import shapes
from support.demo import ROOT, Demo, MakeConfig
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


# -- through the command ---------------------------------------------------------------


def test_the_command_refuses_in_under_a_second(
    tmp_path: Path, make_config: MakeConfig, env: dict[str, str]
) -> None:
    path = make_config(tmp_path)
    checkpoint(path)
    before = os.times()
    done = leviathan("train", path, "--set", "lora_r=4", cwd=tmp_path, env=env, check=2)
    after = os.times()
    used = after.children_user + after.children_system
    used -= before.children_user + before.children_system  # time that no other process can take
    assert "lora_r" in done.stderr and "was 8" in done.stderr
    assert "Traceback" not in done.stderr
    assert used < 1.0
    assert not (tmp_path / "run/.leviathan/sessions").exists()


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
