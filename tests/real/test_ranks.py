"""Several ranks on one machine: another number of them at a resume, and states in shards."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from leviathan_train.checkpoints import store
from leviathan_train.run.folder import Run
from support import fed
from support.demo import PLUGIN, ROOT, MakeConfig
from support.driver import differences, leviathan, pause_at, train, training_state
from support.forked import Forge

pytestmark = pytest.mark.train

SUPPORT = ROOT / "tests" / "support"
FEW: dict[str, Any] = {
    "max_memory": {"cpu": "8GiB"},
    "eval_steps": None,
    "val_set_size": 0,
    "logging_steps": 1,
    "save_steps": 4,
    "save_total_limit": 30,
}
FSDP: dict[str, Any] = {
    "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
    "transformer_layer_cls_to_wrap": "LlamaDecoderLayer",
    "reshard_after_forward": True,
}


def ranks(number: int) -> list[str]:
    if number == 1:
        return ["--", "--cpu", "--num_processes", "1"]
    return ["--", "--multi_gpu", "--num_processes", str(number)]


def copied(straight: Path, step: int, folder: Path) -> Path:
    """A run that has one checkpoint of another."""
    (folder / "run").mkdir(parents=True)
    name = f"checkpoint-{step}"
    shutil.copytree(straight / "run" / name, folder / "run" / name)
    return folder


@pytest.mark.axolotl
def test_on_other_ranks_each_row_that_remains_is_trained_once(
    make_config: MakeConfig, env_of_ranks: dict[str, str], tmp_path: Path
) -> None:
    """From one rank to two, within an epoch, and back in the next one: the rows of each step."""
    settings = FEW | {"plugins": [PLUGIN, fed.PLUGIN], "num_epochs": 2}
    env = env_of_ranks | {"PYTHONPATH": f"{SUPPORT / 'no_driver'}{os.pathsep}{SUPPORT.parent}"}
    (tmp_path / "straight").mkdir()
    straight = make_config(tmp_path / "straight", **settings)
    with Forge(env | {"FED_ROWS": str(tmp_path / "straight/fed")}) as forge:
        forge.must_train(straight)
    expected = fed.fed(tmp_path / "straight/fed")
    last = max(expected)
    assert sorted(expected) == list(range(1, last + 1))

    two = copied(tmp_path / "straight", 4, tmp_path / "two")
    env["FED_ROWS"] = str(two / "fed")
    more = make_config(two, **settings)
    resume = ["--resume", "latest"]
    refused = train(more, *resume, *ranks(2), env=env, expect=2)
    assert "gradient_accumulation_steps: 2 keeps them" in refused
    half = make_config(two, **settings, gradient_accumulation_steps=2)
    assert "Cannot ask" in train(half, *resume, *ranks(2), env=env, expect=2)
    output = train(half, *resume, "--yes", *ranks(2), env=env)
    assert "number of processes: 1 -> 2: asked" in output
    assert "on 2 processes instead of 1" in output
    found = fed.fed(two / "fed")
    assert sorted(found) == list(range(5, last + 1))
    assert not [step for step, rows in found.items() if rows != expected[step]]
    assert "Resume at step 4: continuous" in output

    at = last - last % 4 - 4  # in the second epoch
    one = copied(two, at, tmp_path / "one")
    env["FED_ROWS"] = str(one / "fed")
    back = make_config(one, **settings)
    train(back, *resume, "--yes", *ranks(1), env=env)
    found = fed.fed(one / "fed")
    assert sorted(found) == list(range(at + 1, last + 1))
    assert not [step for step, rows in found.items() if rows != expected[step]]


def logged(run: Path) -> dict[int, float]:
    newest = max(run.glob("checkpoint-*[0-9]"), key=lambda path: int(path.name[11:]))
    history = json.loads((newest / "trainer_state.json").read_text())["log_history"]
    return {entry["step"]: entry["loss"] for entry in history if "loss" in entry}


@pytest.mark.slow
def test_three_ranks_pause_at_one_step_and_differ_in_the_last_digit_at_most(
    make_config: MakeConfig, env_of_ranks: dict[str, str], tmp_path: Path
) -> None:
    """Of three numbers, unlike two, the order of the sum counts, and torch's DDP sums otherwise
    in the first step after a start: only then does it know how to group the gradients.
    """
    settings = FEW | {"max_steps": 12, "gradient_accumulation_steps": 1}
    (tmp_path / "straight").mkdir()
    train(make_config(tmp_path / "straight", **settings), *ranks(3), env=env_of_ranks)
    paused = copied(tmp_path / "straight", 4, tmp_path / "paused")
    config = make_config(paused, **settings)
    step = pause_at(config, 6, *ranks(3), env=env_of_ranks)
    assert store.inspect(Run(paused / "run"), paused / f"run/checkpoint-{step}").intact
    assert "✅ Same rows in the same order" in train(config, *ranks(3), env=env_of_ranks)
    ends = [folder / "run/checkpoint-12" for folder in (tmp_path / "straight", paused)]
    one, other = (training_state(path, ranks=3) for path in ends)
    assert one["step"] == other["step"]
    assert one["tokens"] == other["tokens"]
    assert one["adapter"].keys() == other["adapter"].keys()
    far = [abs(one["adapter"][key] - other["adapter"][key]).max() for key in one["adapter"]]
    assert max(far) < 1e-4


def sharded_state(path: Path) -> dict[str, Any]:
    """All that a checkpoint of shards holds, put together."""
    import torch
    from safetensors.torch import load_file
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    found: dict[str, Any] = {"adapter": load_file(path / "adapter_model.safetensors")}
    for folder in ("pytorch_model_fsdp_0", "optimizer_0"):
        if (path / folder).is_dir():
            dcp_to_torch_save(path / folder, path.parent / "whole.pt")
            found[folder] = torch.load(path.parent / "whole.pt", weights_only=False)
    for file in sorted(path.rglob("*.pt")):
        whole = torch.load(file, map_location="cpu", weights_only=False)
        if isinstance(whole, dict) and isinstance(whole.get("optimizer_state_dict"), dict):
            whole["optimizer_state_dict"].pop("loss_scaler", None)  # an object; its id differs
        found[file.name] = whole
    if (path / "optimizer.bin").is_file():
        found["optimizer.bin"] = torch.load(path / "optimizer.bin", weights_only=False)
    state = json.loads((path / "trainer_state.json").read_text())["log_history"]
    timed = ("runtime", "per_sec")
    found["log"] = [
        {key: part for key, part in entry.items() if not any(word in key for word in timed)}
        for entry in state
    ]
    return found


def damaged_shards(run: Path, step: int) -> Iterator[tuple[str, str]]:
    """Each file of a checkpoint's folders with one bit turned round, and what is then said."""
    path = run / f"checkpoint-{step}"
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        if file.parent == path:
            continue
        content = file.read_bytes()
        middle = len(content) // 2
        file.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        found = store.inspect(Run(run), path, store.Read.ALL)
        yield file.relative_to(path).as_posix(), "" if found.intact else found.reason
        file.write_bytes(content)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["SHARDED_STATE_DICT", "FULL_STATE_DICT"])
def test_fsdp2_is_sealed_whole_and_resumes_bit_for_bit(
    make_config: MakeConfig, env_of_ranks: dict[str, str], tmp_path: Path, kind: str
) -> None:
    env = env_of_ranks | {"PYTHONPATH": str(SUPPORT / "fsdp_on_cpu")}
    settings = FEW | {
        "max_steps": 10,
        "fsdp_version": 2,
        "fsdp_config": FSDP | {"state_dict_type": kind},
    }
    (tmp_path / "straight").mkdir()
    straight = make_config(tmp_path / "straight", **settings)
    train(straight, *ranks(2), env=env)
    sealed = json.loads((tmp_path / "straight/run/checkpoint-4/leviathan.json").read_text())
    shards = {"pytorch_model_fsdp_0/__0_0.distcp", "pytorch_model_fsdp_0/__1_0.distcp"}
    assert shards <= set(sealed["files"]) or kind == "FULL_STATE_DICT"
    assert "adapter_model.safetensors" in sealed["files"]  # for a merge

    paused = copied(tmp_path / "straight", 4, tmp_path / "paused")
    config = make_config(paused, **settings)
    step = pause_at(config, 6, *ranks(2), env=env)
    output = train(config, *ranks(2), env=env)
    assert "✅ Loaded adapter weights" in output
    assert "✅ Same rows in the same order" in output
    one, other = (folder / "run/checkpoint-10" for folder in (tmp_path / "straight", paused))
    assert not differences(sharded_state(one), sharded_state(other))

    reasons = dict(damaged_shards(paused / "run", step))
    assert len(reasons) == (6 if kind == "SHARDED_STATE_DICT" else 0)
    assert all(name in reason for name, reason in reasons.items()), reasons
    halved = make_config(paused, **settings, learning_rate=0.005)
    older = ["--resume", str(step), "--set", "max_steps=12"]
    output = train(halved, *older, *ranks(2), env=env)
    assert "Now as the config says: learning_rate" in output
    leviathan("merge", str(halved), "--output", tmp_path / "merged", cwd=paused, env=env, check=0)


@pytest.mark.slow
def test_fsdp2_shards_are_divided_anew_on_other_ranks(
    make_config: MakeConfig, env_of_ranks: dict[str, str], tmp_path: Path
) -> None:
    env = env_of_ranks | {"PYTHONPATH": str(SUPPORT / "fsdp_on_cpu")}
    settings = FEW | {
        "max_steps": 8,
        "fsdp_version": 2,
        "fsdp_config": FSDP | {"state_dict_type": "SHARDED_STATE_DICT"},
    }
    (tmp_path / "two").mkdir()
    train(make_config(tmp_path / "two", **settings), *ranks(2), env=env)
    four = copied(tmp_path / "two", 4, tmp_path / "four")
    config = make_config(four, **settings, gradient_accumulation_steps=2)
    output = train(config, "--resume", "latest", "--yes", *ranks(4), env=env)
    assert "✅ Loaded adapter weights" in output
    assert "✅ Loaded optimizer state" in output
    assert "on 4 processes instead of 2" in output
    losses = [logged(tmp_path / name / "run") for name in ("two", "four")]
    assert all(abs(losses[0][step] - losses[1][step]) < 0.05 for step in losses[0])


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="needs deepspeed")
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_deepspeed_is_sealed_whole_and_resumes_bit_for_bit(
    make_config: MakeConfig, env_of_ranks: dict[str, str], tmp_path: Path, stage: int
) -> None:
    inherited = os.environ.get("PYTHONPATH", "")
    path = f"{SUPPORT / 'deepspeed_on_cpu'}{os.pathsep}{inherited}"
    env = env_of_ranks | {"PYTHONPATH": path, "DS_ACCELERATOR": "cpu"}
    del env["ACCELERATE_USE_CPU"]
    names = ("gradient_accumulation_steps", "gradient_clipping", "train_batch_size")
    zero = {
        **dict.fromkeys((*names, "train_micro_batch_size_per_gpu"), "auto"),
        "zero_optimization": {"stage": stage, "overlap_comm": False},
    }
    file = tmp_path / "zero.json"
    file.write_text(json.dumps(zero))
    settings = FEW | {"max_steps": 10, "deepspeed": str(file)}
    (tmp_path / "straight").mkdir()
    train(make_config(tmp_path / "straight", **settings), *ranks(2), env=env)
    paused = copied(tmp_path / "straight", 4, tmp_path / "paused")
    config = make_config(paused, **settings)
    step = pause_at(config, 6, *ranks(2), env=env)
    output = train(config, *ranks(2), env=env)
    assert "✅ Same rows in the same order" in output
    one, other = (folder / "run/checkpoint-10" for folder in (tmp_path / "straight", paused))
    assert not differences(sharded_state(one), sharded_state(other))
    reasons = dict(damaged_shards(paused / "run", step))
    assert sum("optim_states" in name for name in reasons) == 2
    assert all(name in reason for name, reason in reasons.items()), reasons
    values = yaml.safe_load(config.read_text()) | {"gradient_accumulation_steps": 8}
    config.write_text(yaml.safe_dump(values))
    resume = ["--resume", str(step), "--yes"]
    assert "DeepSpeed cannot" in train(config, *resume, *ranks(1), env=env, expect=2)
