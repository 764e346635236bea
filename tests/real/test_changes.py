"""What a changed setting does at a resume, on the real Axolotl."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from leviathan_train.checkpoints.origin import origin_of
from leviathan_train.checkpoints.store import scan
from leviathan_train.config.changes import changes_since
from leviathan_train.config.load import load_config
from leviathan_train.run.folder import Run
from support.demo import Demo, MakeConfig
from support.driver import differences, leviathan
from support.forked import Forge, Outcome

pytestmark = [
    pytest.mark.train,
    pytest.mark.slow,
    pytest.mark.axolotl,
    pytest.mark.timeout(900),
]

SHORT: Mapping[str, Any] = {
    "max_steps": 6,
    "num_epochs": None,
    "save_steps": 3,
    "logging_steps": 1,
    "eval_steps": None,
    "val_set_size": 0,
    "sequence_len": 128,
    "micro_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "lora_target_linear": None,
    "lora_target_modules": ["q_proj", "v_proj"],
    "lora_dropout": None,
    "warmup_steps": 2,
    "dataloader_num_workers": 0,
}


@dataclass
class Bench:
    """Short trainings in folders of their own, the same one made once."""

    forge: Forge
    make_config: MakeConfig
    root: Path
    number: int = 0
    made: dict[str, Outcome] = field(default_factory=dict)

    def config(self, **settings: Any) -> Path:
        self.number += 1
        folder = self.root / f"run-{self.number}"
        folder.mkdir()
        return self.make_config(folder, **{**SHORT, **settings})

    def fresh(self, **settings: Any) -> Outcome:
        """A training from the base model; the same settings are trained once."""
        key = json.dumps(settings, sort_keys=True)
        if key not in self.made:
            self.made[key] = self.forge.must_train(self.config(**settings))
        return self.made[key]

    def resume(self, origin: Outcome, step: int, **settings: Any) -> Outcome:
        """Resume from a checkpoint of `origin` in a run of its own; nothing is compared first."""
        checkpoint = str(origin.run / f"checkpoint-{step}")
        return self.forge.train(self.config(**settings, resume_from_checkpoint=checkpoint))


@pytest.fixture(scope="module")
def bench(
    tmp_path_factory: pytest.TempPathFactory, make_config: MakeConfig, env: dict[str, str]
) -> Iterator[Bench]:
    with Forge(env) as forge:
        yield Bench(forge, make_config, tmp_path_factory.mktemp("changes"))


# -- the schedule ----------------------------------------------------------------------

SCHEDULES: Mapping[str, Mapping[str, Any]] = {
    "cosine": {"lr_scheduler": "cosine"},
    "linear": {"lr_scheduler": "linear"},
    "constant": {"lr_scheduler": "constant"},
    "constant_with_warmup": {"lr_scheduler": "constant_with_warmup"},
    "cosine_min_lr_ratio": {"lr_scheduler": "cosine", "cosine_min_lr_ratio": 0.2},
    "one_cycle": {"lr_scheduler": "one_cycle"},
    "rex": {"lr_scheduler": "rex"},
}


def _goes_on_as_fresh(bench: Bench, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    origin, expected = bench.fresh(**old), bench.fresh(**new)
    resumed = bench.resume(origin, 3, **new)
    assert resumed.code == 0, resumed.output[-2000:]
    rates = resumed.logged("learning_rate", after=3)
    assert rates == expected.logged("learning_rate", after=3)
    assert len(rates) >= 3


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_changed_rate_gives_what_the_new_schedule_gives_at_that_step(
    bench: Bench, name: str
) -> None:
    schedule = SCHEDULES[name]
    _goes_on_as_fresh(
        bench, {**schedule, "learning_rate": 0.01}, {**schedule, "learning_rate": 0.003}
    )


@pytest.mark.parametrize("new", ["linear", "constant_with_warmup"])
def test_another_scheduler_takes_over_at_once(bench: Bench, new: str) -> None:
    _goes_on_as_fresh(
        bench,
        {**SCHEDULES["cosine"], "learning_rate": 0.01},
        {**SCHEDULES[new], "learning_rate": 0.003},
    )


@pytest.mark.parametrize(
    "change",
    [
        {"warmup_steps": 5},
        {"max_steps": 9},
        {"cosine_min_lr_ratio": 0.2},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_schedule_is_stretched_and_warmed_up_as_in_a_fresh_run(
    bench: Bench, change: dict[str, Any]
) -> None:
    cosine = {"lr_scheduler": "cosine", "learning_rate": 0.01}
    _goes_on_as_fresh(bench, cosine, cosine | change)


def test_more_epochs_stretch_the_schedule(bench: Bench) -> None:
    by_epochs = {"max_steps": None, "micro_batch_size": 16, "num_epochs": 1}
    origin = bench.fresh(**by_epochs)
    last = max(origin.logged("learning_rate"))
    expected = bench.fresh(**by_epochs | {"num_epochs": 1.5})
    resumed = bench.resume(origin, 3, **by_epochs | {"num_epochs": 1.5})
    assert resumed.logged("learning_rate", 3) == expected.logged("learning_rate", 3)
    assert max(resumed.logged("learning_rate")) > last


# -- what takes effect -----------------------------------------------------------------


def test_intervals_and_the_optimizers_settings_take_effect(bench: Bench) -> None:
    origin = bench.fresh(
        max_steps=12, val_set_size=16, eval_steps=3, learning_rate=0.01, weight_decay=0.1
    )
    resumed = bench.resume(
        origin,
        3,
        max_steps=12,
        val_set_size=16,
        eval_steps=4,
        save_steps=4,
        logging_steps=2,
        save_total_limit=2,
        leviathan_keep_best=False,
        weight_decay=0.03,
        adam_beta1=0.8,
        adam_beta2=0.95,
        adam_epsilon=1e-6,
    )
    assert resumed.code == 0, resumed.output[-2000:]
    import torch

    assert sorted(resumed.logged("loss", after=3)) == [4, 6, 8, 10, 12]
    assert sorted(resumed.logged("eval_loss", after=3)) == [4, 8, 12]
    names = {path.name for path in resumed.run.glob("checkpoint-*")}
    assert names == {"checkpoint-8", "checkpoint-12", "checkpoint-final"}
    state = torch.load(resumed.checkpoint / "optimizer.pt", weights_only=True)
    for group in state["param_groups"]:
        assert tuple(group["betas"]) == (0.8, 0.95)
        assert group["eps"] == 1e-6
        assert group["weight_decay"] in {0.03, 0.0}  # none on biases and norms
    assert state["param_groups"][0]["weight_decay"] == 0.03


@pytest.mark.parametrize(
    "change", [{"max_grad_norm": 0.001}, {"lora_dropout": 0.5}, {"weight_decay": 5.0}]
)
def test_other_settings_of_the_step_take_effect(bench: Bench, change: dict[str, Any]) -> None:
    origin = bench.fresh(learning_rate=0.01, lr_scheduler="constant")
    same = bench.resume(origin, 3, learning_rate=0.01, lr_scheduler="constant")
    assert same.logged("loss") == origin.logged("loss")
    changed = bench.resume(origin, 3, learning_rate=0.01, lr_scheduler="constant", **change)
    assert changed.code == 0
    assert differences(
        load_file(same.checkpoint / "adapter_model.safetensors"),
        load_file(changed.checkpoint / "adapter_model.safetensors"),
    )


@pytest.mark.parametrize("exact", [True, False])
def test_an_adapter_to_begin_with_does_no_harm_beside_a_resume(bench: Bench, exact: bool) -> None:
    origin = bench.fresh(lora_dropout=0.1)
    other = bench.fresh(lora_r=8 if exact else 4)
    named = {"lora_dropout": 0.1, "lora_model_dir": str(other.checkpoint)}
    resumed = bench.resume(origin, 3, **named)
    assert resumed.code == 0, resumed.output[-2000:]
    assert resumed.logged("loss") == origin.logged("loss")
    adapters = [load_file(it.checkpoint / "adapter_model.safetensors") for it in (origin, resumed)]
    assert not differences(*adapters)
    if not exact:
        alone = bench.resume(origin, 3, **named, plugins=None)
        assert "size mismatch" in alone.output


def test_a_config_that_is_the_same_has_no_changes(
    bench: Bench, tmp_path: Path, env: dict[str, str]
) -> None:
    settings = {**SHORT, "plugins": None, "resume_from_checkpoint": True, "strict": True}
    # An option over a bool of the YAML: Axolotl alone would make False of it.
    path = bench.make_config(tmp_path, **settings)
    sets = ("learning_rate=5e-3", "lora_target_modules=[v_proj, q_proj]", "bf16=auto")
    command: list[str | Path] = ["train", path]
    command += [part for text in sets for part in ("--set", text)]
    leviathan(*command, cwd=tmp_path, env=env, check=0)
    for checkpoint in scan(Run(tmp_path / "run")):
        assert checkpoint.state == "intact"
        origin = origin_of(checkpoint)
        assert origin.inputs["base"]["weights"] and origin.inputs["data"]
        assert changes_since(origin, load_config(path, sets), world_size=1) == []
    done = leviathan(*command, "--set", "max_steps=8", cwd=tmp_path, env=env, check=0)
    assert "FOUND EXISTING CHECKPOINT: step 6" in done.stdout
    assert "max_steps: 6 -> 8: takes effect" in done.stdout
    assert done.stdout.count(": takes effect") == 1


# -- what is refused: what Axolotl alone would do ---------------------------------------

LONG: Mapping[str, Any] = {
    "sequence_len": 320,  # two rows in a pack
    "max_steps": 30,
    "save_steps": 30,
    "lr_scheduler": "constant",
    "learning_rate": 0.01,
    "warmup_steps": 0,
}
SILENT, SAME = "silent", "same"
GROUP_SIZE = "parameter group that doesn't match the size of optimizer's group"
GROUP_NUMBER = "different number of parameter groups"

ALONE: Mapping[str, tuple[Mapping[str, Any], str]] = {
    "base_model": ({"base_model": "OTHER"}, SILENT),
    "adapter: qlora": ({"adapter": "qlora", "load_in_4bit": True}, SILENT),
    "adapter: none": (
        {"adapter": None, "lora_r": None, "lora_alpha": None, "lora_target_modules": None},
        "Can't find a checkpoint index",
    ),
    "load_in_4bit": ({"load_in_4bit": True}, SAME),
    "load_in_8bit": ({"load_in_8bit": True}, SILENT),
    "lora_r": ({"lora_r": 4}, r"Error\(s\) in loading state_dict for PeftModel"),
    "lora_alpha": ({"lora_alpha": 128}, SILENT),
    "lora_target_modules: same number and shapes": (
        {"lora_target_modules": ["q_proj", "k_proj"]},
        SILENT,
    ),
    "lora_target_modules: other shapes": (
        {"lora_target_modules": ["q_proj", "o_proj"]},
        "size of tensor a",
    ),
    "lora_target_modules: more": (
        {"lora_target_modules": ["q_proj", "k_proj", "v_proj"]},
        GROUP_SIZE,
    ),
    "lora_target_linear": ({"lora_target_linear": True, "lora_target_modules": None}, GROUP_SIZE),
    "lora_modules_to_save": ({"lora_modules_to_save": ["lm_head"]}, "KeyError: .*lm_head"),
    "lora_fan_in_fan_out": ({"lora_fan_in_fan_out": True}, SAME),
    "peft_use_dora": ({"peft_use_dora": True}, GROUP_SIZE),
    "peft_use_rslora": ({"peft_use_rslora": True}, SILENT),
    "peft_layers_to_transform": ({"peft_layers_to_transform": [0]}, GROUP_SIZE),
    "unfrozen_parameters": ({"unfrozen_parameters": ["embed"]}, GROUP_SIZE),
    "sequence_len": ({"sequence_len": 128}, SILENT),
    "sample_packing": ({"sample_packing": True, "pad_to_sequence_len": True}, SILENT),
    "chat_template": ({"chat_template": "chatml"}, SAME),
    "special_tokens": ({"special_tokens": {"pad_token": "<another>"}}, SILENT),
    "tokens": ({"tokens": ["<another>"]}, "lora_modules_to_save"),
    "optimizer: adafactor": ({"optimizer": "adafactor"}, "KeyError: 'beta1'"),
    "optimizer: adamw_bnb_8bit": ({"optimizer": "adamw_bnb_8bit"}, "KeyError: 'state1'"),
    "lr_scheduler: one_cycle": ({"lr_scheduler": "one_cycle"}, "KeyError"),
    "loraplus_lr_ratio": ({"loraplus_lr_ratio": 16}, GROUP_NUMBER),
    "embedding_lr": ({"embedding_lr": 0.001}, GROUP_NUMBER),
    "relora": (
        {"relora": True, "jagged_restart_steps": 20, "relora_prune_ratio": 0.9},
        "KeyError",
    ),
    "micro_batch_size": ({"micro_batch_size": 2}, SILENT),
    "gradient_accumulation_steps": ({"gradient_accumulation_steps": 2}, SILENT),
    "seed": ({"seed": 7}, SILENT),
    "val_set_size": ({"val_set_size": 16, "eval_steps": 100}, SILENT),
    "train_on_inputs": ({"train_on_inputs": True}, SILENT),
}
"""Change, and what plain Axolotl does: the error, `silent` (other losses), or `same`."""


@pytest.fixture(scope="module")
def other_base(bench: Bench, demo: Demo) -> Path:
    """A base model of the same shapes with other weights."""
    folder = bench.root / "other-model"
    shutil.copytree(demo.model, folder)
    weights = load_file(folder / "model.safetensors")
    for name, weight in weights.items():
        if "norm" not in name:
            weights[name] = weight.flip(0).contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def honest(bench: Bench) -> dict[int, float]:
    """Losses of plain Axolotl that resumes from step 30 with nothing changed."""
    origin = bench.fresh(**LONG)
    done = bench.resume(origin, 30, **{**LONG, "max_steps": 33, "plugins": None})
    assert done.code == 0, done.output[-2000:]
    return done.logged("loss", after=30)


@pytest.mark.parametrize("name", ALONE)
def test_what_plain_axolotl_does_with_what_we_refuse_or_ask_about(
    bench: Bench, honest: dict[int, float], other_base: Path, name: str
) -> None:
    change, expected = ALONE[name]
    change = {k: str(other_base) if v == "OTHER" else v for k, v in change.items()}
    done = bench.resume(
        bench.fresh(**LONG), 30, **{**LONG, "max_steps": 33, "plugins": None, **change}
    )
    if expected not in {SILENT, SAME}:
        assert done.code == 1
        assert re.search(expected, done.error), done.error
        return
    assert done.code == 0, done.error
    losses = done.logged("loss", after=30)
    assert (losses == honest) == (expected == SAME), (losses, honest)
