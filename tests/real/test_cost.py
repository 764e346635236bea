"""What `check` reckons beside what a training holds, keeps and does."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from leviathan_train.config.load import load_config
from leviathan_train.config.memory import memory
from leviathan_train.config.pitfalls import pitfalls
from leviathan_train.config.survey import Survey
from leviathan_train.jobs.survey import survey_rows
from leviathan_train.launch.cost import steps
from support.demo import Demo, MakeConfig
from support.forked import Forge

pytestmark = [pytest.mark.train, pytest.mark.slow, pytest.mark.timeout(900)]

FEW: dict[str, Any] = {"max_steps": 3, "save_steps": 3, "eval_steps": 3}
SETTINGS: dict[str, dict[str, Any]] = {
    "lora": {},
    "qlora": {"adapter": "qlora", "load_in_4bit": True, "optimizer": "adamw_8bit", "lora_r": 64},
    "8 bits": {"load_in_8bit": True, "optimizer": "lion_8bit", "lora_r": 80},
    "full": {
        **dict.fromkeys(("adapter", "lora_r", "lora_alpha", "lora_dropout", "lora_target_linear")),
        "optimizer": "adamw_8bit",
    },
    "some modules": {
        "lora_target_linear": None,
        "lora_target_modules": ["q_proj", "down_proj"],
        "lora_modules_to_save": ["embed_tokens"],
        "optimizer": "sgd",
    },
}


@pytest.fixture(scope="module")
def forge(env: dict[str, str]) -> Iterator[Forge]:
    with Forge(env) as server:
        yield server


def count_tensors() -> None:
    """In the trainer: write what it holds beside the config, after each backward pass."""
    from transformers import Trainer

    original = Trainer.training_step

    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        loss = original(self, *args, **kwargs)
        Path("held.json").write_text(json.dumps(held(self)))
        return loss

    Trainer.training_step = step


def held(trainer: Any) -> dict[str, int]:
    """Bytes of what a trainer holds, without the tables and counters that do not grow."""
    import torch

    def bytes_of(tensor: Any) -> int:
        return int(tensor.numel() * tensor.element_size())

    found = {"weights": 0, "adapter": 0, "gradients": 0, "optimizer": 0}
    for name, weight in trainer.model.named_parameters():
        of_adapter = "lora_" in name or "modules_to_save" in name
        found["adapter" if of_adapter else "weights"] += bytes_of(weight)
        if state := getattr(weight, "quant_state", None):
            found["weights"] += bytes_of(state.absmax)
            if state.state2 is not None:
                found["weights"] += bytes_of(state.state2.absmax)
        if weight.grad is not None:
            found["gradients"] += bytes_of(weight.grad)
    for module in trainer.model.modules():
        if (scales := getattr(getattr(module, "state", None), "SCB", None)) is not None:
            found["weights"] += bytes_of(scales)
    for state in trainer.optimizer.state.values():
        for key, value in state.items():
            if torch.is_tensor(value) and value.numel() > 1 and "qmap" not in key:
                found["optimizer"] += bytes_of(value)
    return found


@pytest.mark.parametrize("case", SETTINGS)
def test_what_is_reckoned_is_what_a_training_holds(
    make_config: MakeConfig, forge: Forge, tmp_path: Path, case: str
) -> None:
    path = make_config(tmp_path, **FEW, **SETTINGS[case])
    forge.must_train(path, patch=f"{__file__}:count_tensors")
    seen = json.loads((tmp_path / "held.json").read_text())
    reckoned = {part.name: part.bytes for part in memory(load_config(path)).parts}
    assert {name: reckoned.get(name, 0) for name in seen} == seen


@pytest.mark.axolotl
def test_rows_that_a_survey_finds_are_those_that_training_drops(
    make_config: MakeConfig, forge: Forge, tmp_path: Path, demo: Demo
) -> None:
    rows = [json.loads(line) for line in demo.data.read_text().splitlines()]
    rows[5]["output"] = rows[9]["output"] = ""
    rows[20]["output"] = rows[30]["output"] = "a very long answer " * 100
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings: dict[str, Any] = {
        "datasets": [{"path": str(file), "ds_type": "json", "type": "alpaca"}],
        "dataset_prepared_path": str(tmp_path / "prepared"),
        "num_epochs": 3,
        "save_steps": 1000,
        "eval_steps": 1000,
    }
    path = make_config(tmp_path, **settings)
    config = load_config(path)
    seen = Survey.from_json(survey_rows(config.values, str(path)))
    assert (seen.unknown, seen.refused.count) == ("", 0)
    assert seen.silent.places == [f"{file}, line 6", f"{file}, line 10"]
    assert seen.long.places == [f"{file}, line 21", f"{file}, line 31"]
    done = forge.must_train(path)
    reckoned = steps(config, (), seen)
    trained = json.loads((done.checkpoint / "trainer_state.json").read_text())["max_steps"]
    assert (reckoned.total, reckoned.estimated) == (trained, False)


def test_the_steps_of_packed_rows_are_nearly_those_of_the_training(
    make_config: MakeConfig, forge: Forge, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {
        "sample_packing": True,
        "eval_sample_packing": False,
        "num_epochs": 1,
        "gradient_accumulation_steps": 1,
        "micro_batch_size": 1,
        "save_steps": 1000,
        "eval_steps": 1000,
    }
    path = make_config(tmp_path, **settings)
    config = load_config(path)
    reckoned = steps(config, (), Survey.from_json(survey_rows(config.values, str(path))))
    done = forge.must_train(path)
    # A packed epoch may end some batches before its counted length, and so without a checkpoint.
    (status,) = done.records("status.json")
    trained = status["max_steps"]
    assert reckoned.estimated
    assert reckoned.total == pytest.approx(trained, rel=0.1)


@pytest.mark.parametrize(
    ("entry", "rows"),
    [
        (
            {"type": "chat_template", "chat_template": "chatml"},
            [
                {
                    "messages": [
                        {"role": "user", "content": "hi"},
                        {"role": "assistant", "content": t},
                    ]
                }
                for t in ("yes", "no " * 300)
            ]
            + [{"messages": [{"role": "user", "content": "nobody answers"}]}],
        ),
        ({"type": "completion"}, [{"text": "yes"}, {"text": "no " * 900}]),
        (
            {"type": {"field_instruction": "q", "field_output": "a", "format": "{instruction}"}},
            [{"q": "hi", "a": "yes"}, {"q": "hi", "a": "no " * 900}, {"q": "hi", "a": ""}],
        ),
        ({"type": "gpteacher"}, [{"instruction": "hi", "input": "", "response": "yes"}]),
    ],
)
def test_rows_of_other_types_are_judged_too(
    make_config: MakeConfig, tmp_path: Path, entry: dict[str, Any], rows: list[dict[str, Any]]
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = make_config(tmp_path, datasets=[{"path": str(file), "ds_type": "json", **entry}])
    seen = Survey.from_json(survey_rows(load_config(path).values, str(path)))
    assert (seen.unknown, seen.refusal) == ("", "")
    splits = entry["type"] == "completion"
    assert seen.long.count == (1 if len(rows) > 1 and not splits else 0)
    assert seen.silent.count == (1 if len(rows) == 3 else 0)
    assert seen.mean_tokens


PITFALLS: dict[str, dict[str, Any]] = {
    "targets": {"lora_target_linear": None, "lora_target_modules": ["query_key_value"]},
    "split": {"split": "test"},
    "shards": {"shards": 2, "shards_idx": 2},
    "adapter": {"lora_model_dir": "./nowhere"},
    "prepared": {"dataset_prepared_path": "./config.yaml"},
}


@pytest.mark.parametrize("case", PITFALLS)
def test_what_is_called_a_pitfall_ends_a_training(
    make_config: MakeConfig, forge: Forge, tmp_path: Path, demo: Demo, case: str
) -> None:
    settings: dict[str, Any] = {"dataset_prepared_path": str(tmp_path / "prepared")}
    if case in {"split", "shards"}:
        entry = {"path": str(demo.data), "ds_type": "json", "type": "alpaca"}
        settings["datasets"] = [entry | PITFALLS[case]]
    else:
        settings |= PITFALLS[case]
    path = make_config(tmp_path, **FEW, **settings)
    with contextlib.chdir(tmp_path):
        assert [one.fails for one in pitfalls(load_config(path))] == [True]
    assert forge.train(path).code != 0
