"""A run that is paused and resumed ends as if it had never been stopped: bit for bit."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from leviathan_train.checkpoints import store
from leviathan_train.run.folder import Run
from support.demo import MakeConfig
from support.driver import differences, pause_at, start, train, training_state
from support.exactness import resumed_at
from support.forked import Forge

pytestmark = pytest.mark.train

STEPS = {False: 48, True: 30}


@pytest.fixture(scope="module", params=[False, True], ids=["unpacked", "packed"])
def straight(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    make_config: MakeConfig,
    env: dict[str, str],
) -> tuple[Path, Path, int]:
    """A config, its first checkpoint, and the last step, trained to the end without a pause.

    Fresh runs are not reproducible (LoRA is initialised before the seed is set), so both
    branches start from one first checkpoint.
    """
    packed: bool = request.param
    folder = tmp_path_factory.mktemp("identity")
    overrides = {"sample_packing": True, "eval_sample_packing": False, "pad_to_sequence_len": True}
    config = make_config(
        folder,
        max_steps=STEPS[packed],
        num_epochs=30,
        lora_dropout=0.1,
        logging_steps=5,
        eval_steps=10,
        save_steps=1000,
        **(overrides if packed else {}),
    )
    pause_at(config, 3, env=env)
    shutil.copytree(folder / "run", folder / "first")
    train(config, env=env)
    return config, folder / "first", STEPS[packed]


@pytest.mark.axolotl
def test_two_pauses_leave_no_trace(
    straight: tuple[Path, Path, int], env: dict[str, str], tmp_path: Path
) -> None:
    config, first, last = straight
    run = config.parent / "paused"
    shutil.copytree(first, run)
    seed = int(os.environ.get("LEVIATHAN_TEST_SEED", random.randrange(1000)))
    dice = random.Random(seed)
    to_run = ("--set", f"output_dir={run}")
    one = pause_at(config, dice.randint(6, last // 2), *to_run, env=env, run=run)
    two = pause_at(config, dice.randint(one + 1, last - 5), *to_run, env=env, run=run)
    output = train(config, *to_run, env=env, run=run)
    assert "✅ Loaded optimizer state" in output
    found = differences(
        training_state(config.parent / "run" / f"checkpoint-{last}"),
        training_state(run / f"checkpoint-{last}"),
    )
    assert not found, f"seed {seed}, paused at {one} and {two}: {found[:5]}"
    assert final_loss(run) == final_loss(config.parent / "run"), f"seed {seed}"


def final_loss(run: Path) -> float:
    """The `train_loss` that transformers logs at the end: the mean over all steps."""
    newest = max((run / ".leviathan/sessions").iterdir())
    last = (newest / "metrics.jsonl").read_text().splitlines()[-1]
    return float(json.loads(last)["train_loss"])


def count_two_batches_too_many() -> None:
    """What happens by chance: axolotl counts four epochs, and a later one has fewer batches."""
    from axolotl.utils.samplers.multipack import MultipackBatchSampler

    counted = MultipackBatchSampler.gather_len_batches
    MultipackBatchSampler.gather_len_batches = lambda self, least: counted(self, least) + 2


@pytest.fixture(scope="module")
def forge(env: dict[str, str]) -> Iterator[Forge]:
    with Forge(env) as server:
        yield server


@pytest.mark.axolotl
def test_packed_epochs_shorter_than_counted_do_not_shift_the_rows(
    make_config: MakeConfig, forge: Forge, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {
        "sample_packing": True,
        "pad_to_sequence_len": True,
        "sequence_len": 448,
        "micro_batch_size": 1,
        "gradient_accumulation_steps": 1,
        "max_steps": 90,
        "num_epochs": None,
        "eval_steps": None,
        "val_set_size": 0,
        "save_steps": 80,
        "logging_steps": 1,
        "lora_dropout": 0.1,
        "patch": f"{__file__}:{count_two_batches_too_many.__name__}",
    }
    late = resumed_at(forge, make_config, tmp_path, 80, **settings)
    position = json.loads((late / "leviathan.json").read_text())["trainer"]["position"]
    assert position["epoch"] * position["batches_per_epoch"] + position["batches"] > 80


def draw_as_a_process_of_its_own() -> None:
    """Forked children would all draw what their parent's state of numpy gives next."""
    import numpy

    numpy.random.seed(None)


@pytest.mark.axolotl
def test_without_a_seed_rows_that_are_prepared_anew_come_in_the_same_order(
    make_config: MakeConfig, forge: Forge, tmp_path: Path
) -> None:
    prepared = tmp_path / "prepared"
    few = {"max_steps": 2, "save_steps": 2, "dataset_prepared_path": str(prepared)}

    def config(**settings: Any) -> Path:
        path = make_config(tmp_path, **few | settings)
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line for line in lines if not line.startswith("seed:")))
        return path

    patch = f"{__file__}:{draw_as_a_process_of_its_own.__name__}"
    saved = forge.must_train(config(), patch=patch).checkpoint
    assert "seed" not in json.loads((saved / store.SEAL).read_text())["config"]
    shutil.rmtree(prepared)  # as on another machine
    again = forge.must_train(config(max_steps=4, resume_from_checkpoint=str(saved)), patch=patch)
    assert "✅ Same rows in the same order" in again.output


@pytest.mark.axolotl
def test_an_evaluation_made_up_after_the_last_step_leaves_the_rows_that_come_known(
    make_config: MakeConfig, forge: Forge, tmp_path: Path
) -> None:
    few = {"sample_packing": True, "eval_sample_packing": False, "max_steps": 4, "save_steps": 4}
    saved = forge.must_train(make_config(tmp_path, **few)).checkpoint
    seal = store.Seal.from_json(json.loads((saved / store.SEAL).read_text()))
    assert seal and seal.trainer["rows"][0]
    owed = replace(seal, trainer={**seal.trainer, "evaluation_owed": True})
    (saved / store.SEAL).write_text(owed.to_text())
    again = forge.must_train(make_config(tmp_path, **few, resume_from_checkpoint=str(saved)))
    evaluations = [entry for entry in again.log if entry["step"] == 4 and "eval_loss" in entry]
    assert len(evaluations) == 2, "it was made up"
    seen = json.loads((saved / store.SEAL).read_text())["trainer"]
    assert not seen["evaluation_owed"]
    assert seen["rows"] == seal.trainer["rows"]


@pytest.mark.axolotl
@pytest.mark.parametrize(
    "settings",
    [
        {"group_by_length": True},
        {"optimizer": "schedule_free_adamw", "lr_scheduler": "constant"},
        {"curriculum_sampling": True},
    ],
    ids=["group_by_length", "schedule_free", "curriculum"],
)
def test_kinds_that_keep_a_state_of_their_own_are_exact_in_a_later_epoch(
    make_config: MakeConfig, forge: Forge, tmp_path: Path, settings: dict[str, Any]
) -> None:
    often: dict[str, Any] = {
        "max_steps": 28,
        "save_steps": 22,
        "logging_steps": 3,
    }  # 18 steps an epoch
    resumed_at(forge, make_config, tmp_path, 22, **often, **settings)


def test_rows_in_another_order_are_told_with_the_cause(
    make_config: MakeConfig, forge: Forge, tmp_path: Path
) -> None:
    few = {"max_steps": 12, "save_steps": 4, "logging_steps": 1, "eval_steps": 12}
    first = forge.must_train(make_config(tmp_path, **few))
    resume = {"resume_from_checkpoint": str(first.run / "checkpoint-4"), "seed": 7}
    (tmp_path / "other").mkdir()
    other = forge.must_train(make_config(tmp_path / "other", **few, **resume))
    assert "Other rows than before: seed was 42" in other.output
    assert "Same rows" not in other.output
    assert other.records("seam.json")[-1]["word"] == "broken"


def test_a_plain_resume_from_an_older_checkpoint_mixes_no_branches(
    make_config: MakeConfig, forge: Forge, tmp_path: Path
) -> None:
    few = {"max_steps": 12, "save_steps": 4, "logging_steps": 4, "eval_steps": 12}
    first = forge.must_train(make_config(tmp_path, **few))
    again = few | {"resume_from_checkpoint": str(first.run / "checkpoint-4"), "max_steps": 6}
    other = forge.must_train(make_config(tmp_path, **again))
    assert [step for step, _ in store.folders(Run(other.run))] == [4, 6]
    (aside,) = (other.run / "superseded").iterdir()
    assert [step for step, _ in store.folders(Run(aside))] == [8, 12]
    assert f"Set aside in {aside}" in other.output


@pytest.mark.axolotl
@pytest.mark.parametrize("packed", [False, True], ids=["unpacked", "packed"])
def test_two_ranks_are_exact_in_a_later_epoch(
    make_config: MakeConfig, env_of_ranks: dict[str, str], tmp_path: Path, packed: bool
) -> None:
    settings: dict[str, Any] = {
        "max_memory": {"cpu": "8GiB"},
        "eval_steps": None,
        "val_set_size": 0,
        "logging_steps": 3,
        "num_epochs": 9,
        "max_steps": 18,
        "save_steps": 4,
        "save_total_limit": 9,
    }
    if packed:
        settings |= {"sample_packing": True, "pad_to_sequence_len": True}
    else:
        settings |= {"micro_batch_size": 4}  # 5 steps an epoch
    ranks = ("--", "--multi_gpu", "--num_processes", "2")
    (tmp_path / "straight").mkdir()
    straight = make_config(tmp_path / "straight", **settings)
    train(straight, *ranks, env=env_of_ranks)
    (tmp_path / "paused/run").mkdir(parents=True)
    shutil.copytree(tmp_path / "straight/run/checkpoint-4", tmp_path / "paused/run/checkpoint-4")
    paused = make_config(tmp_path / "paused", **settings)
    step = pause_at(paused, 12, *ranks, env=env_of_ranks)
    seal = json.loads((tmp_path / f"paused/run/checkpoint-{step}/leviathan.json").read_text())
    assert seal["trainer"]["position"]["epoch"] >= 1
    output = train(paused, *ranks, env=env_of_ranks)
    assert seal["trainer"]["position"]["batches"] == 0 or "Same rows" in output
    one, other = (tmp_path / name / "run/checkpoint-18" for name in ("straight", "paused"))
    assert not differences(training_state(one, ranks=2), training_state(other, ranks=2))


def test_4_bit_weights_are_the_same_after_a_resume(
    make_config: MakeConfig, forge: Forge, tmp_path: Path
) -> None:
    quantised: dict[str, Any] = {"adapter": "qlora", "load_in_4bit": True, "lora_dropout": 0.1}
    often: dict[str, Any] = {"max_steps": 16, "save_steps": 8, "eval_steps": 4, "logging_steps": 3}
    resumed_at(forge, make_config, tmp_path, 8, **quantised, **often)


@pytest.mark.slow
@pytest.mark.parametrize("straight", [False], ids=["unpacked"], indirect=True)
@pytest.mark.parametrize("lost", ["rng", "scheduler"])
def test_the_comparison_sees_a_state_that_was_not_restored(
    straight: tuple[Path, Path, int], env: dict[str, str], lost: str
) -> None:
    config, first, last = straight
    run = config.parent / f"without-{lost}"
    shutil.copytree(first, run)
    (checkpoint,) = run.glob("checkpoint-*")
    break_state(checkpoint, lost)
    train(config, "--set", f"output_dir={run}", env=env, run=run)
    found = differences(
        training_state(config.parent / "run" / f"checkpoint-{last}"),
        training_state(run / f"checkpoint-{last}"),
    )
    assert any(line.startswith(".adapter") for line in found)


def break_state(checkpoint: Path, lost: str) -> None:
    """Change one restored state on disk, and seal it, so that only its content is wrong."""
    import torch

    from leviathan_train.checkpoints import store as checkpoints
    from leviathan_train.checkpoints.reseal import reseal
    from leviathan_train.run.folder import Run

    if lost == "rng":
        state = torch.load(checkpoint / "rng_state.pth", weights_only=False)
        state["cpu"] = torch.Generator().manual_seed(1).get_state()
        torch.save(state, checkpoint / "rng_state.pth")
    else:  # momentum and rate of another step: the schedule itself is mended from the config
        state = torch.load(checkpoint / "optimizer.pt", weights_only=True)
        for entry in state["state"].values():
            entry["exp_avg"].zero_()
        torch.save(state, checkpoint / "optimizer.pt")
    run = Run(checkpoint.parent)
    (found,) = checkpoints.scan(run, checkpoints.Read.ALL)
    reseal(run, found)


@pytest.mark.slow
@pytest.mark.parametrize("at", [8, 16], ids=["on the way", "at the last step"])
def test_a_pause_in_an_evaluation_is_made_up_for(
    make_config: MakeConfig, env: dict[str, str], tmp_path: Path, at: int
) -> None:
    config = make_config(tmp_path, max_steps=16, eval_steps=4, save_steps=1000, eval_batch_size=1)
    pause_at(config, 2, env=env)
    shutil.copytree(tmp_path / "run", tmp_path / "paused")
    train(config, env=env)
    run = tmp_path / "paused"
    started = start(config, "--set", f"output_dir={run}", env=env, run=run)
    started.wait(lambda s: s.get("phase") == "evaluating" and s["step"] >= at)
    started.signal()
    status, output = started.finish()
    assert status == 75, output
    session = started.session()
    assert session
    step = json.loads((session / "end.json").read_text())["step"]
    train(config, "--set", f"output_dir={run}", env=env, run=run)
    log = training_state(run / "checkpoint-16")["log"]
    assert [entry["step"] for entry in log if "eval_loss" in entry] == [0, 4, 8, 12, 16], step
    straight = training_state(tmp_path / "run/checkpoint-16")
    assert not differences(straight, training_state(run / "checkpoint-16"))
