"""Merges on the real Axolotl, on a CPU: what they answer, and what they leave when they fail."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from leviathan_train.config.load import load_config
from leviathan_train.errors import LeviathanError, UsageError
from leviathan_train.merge import adapters, merging
from leviathan_train.run.folder import Run
from support.demo import Demo, MakeConfig
from support.driver import LEVIATHAN
from support.forked import Forge
from support.merges import Foundry

pytestmark = [pytest.mark.train, pytest.mark.slow]

EMBEDDINGS = {"modules_to_save": ["embed_tokens", "lm_head"]}


@dataclass(frozen=True)
class Variant:
    """An adapter of some kind on a base of some kind.

    Attributes:
        mended: what Axolotl's merge leaves out or spoils, and is put right.
    """

    base: str = "plain"
    lora: dict[str, Any] = field(default_factory=dict)
    in_4bit: bool = False
    rows: int = 0
    mended: tuple[str, ...] = ()


VARIANTS = {
    "lora": Variant(),
    "lora_tied": Variant("tied"),
    "rslora": Variant(lora={"use_rslora": True}),
    "dora": Variant(lora={"use_dora": True}),
    "patterns": Variant(lora={"rank_pattern": {"q_proj": 4}, "alpha_pattern": {"q_proj": 32}}),
    "saved_modules": Variant(lora=EMBEDDINGS),
    "saved_modules_tied": Variant("tied", EMBEDDINGS, mended=("lm_head.weight",)),
    "saved_embedding_tied": Variant(
        "tied", {"modules_to_save": ["embed_tokens"]}, mended=("lm_head.weight",)
    ),
    "saved_and_kept_tied": Variant(
        "tied", {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}
    ),
    "adapted_head_tied": Variant(
        "tied", {"target_modules": ["q_proj", "lm_head"]}, mended=("lm_head.weight",)
    ),
    "adapted_embedding": Variant(
        lora={"target_modules": ["q_proj", "embed_tokens"]}, mended=("model.embed_tokens.weight",)
    ),
    "larger_vocabulary": Variant(lora=EMBEDDINGS, rows=544),
    "qlora": Variant(in_4bit=True),
    "qlora_tied": Variant("tied", in_4bit=True),
    "qlora_on_some_layers": Variant(lora={"target_modules": ["q_proj"]}, in_4bit=True),
    "qlora_dora": Variant(lora={"use_dora": True}, in_4bit=True),
    "qlora_saved_modules": Variant(lora=EMBEDDINGS, in_4bit=True),
    "qlora_saved_modules_tied": Variant("tied", EMBEDDINGS, True, mended=("lm_head.weight",)),
}


@pytest.fixture(scope="module")
def foundry(env: dict[str, str]) -> Iterator[Foundry]:
    with Foundry(env) as server:
        yield server


@pytest.fixture(scope="module")
def bases(
    foundry: Foundry, demo: Demo, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Models by kind: as the demo's, tied, and one of several shards in bfloat16."""
    folder = tmp_path_factory.mktemp("bases")
    wide = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "head_dim": 64}
    return {
        "plain": demo.model,
        "tied": foundry.model(demo.model, folder / "tied", tie_word_embeddings=True),
        "shards": foundry.model(
            demo.model, folder / "shards", dtype="bfloat16", max_shard_size="2MB", **wide
        ),
        "other": foundry.model(demo.model, folder / "other", hidden_size=32, head_dim=8),
    }


@pytest.mark.axolotl
@pytest.mark.parametrize("name", VARIANTS)
def test_the_merged_model_answers_as_base_and_adapter(
    name: str, foundry: Foundry, bases: dict[str, Path], tmp_path: Path
) -> None:
    variant = VARIANTS[name]
    base = bases[variant.base]
    adapter = foundry.adapter(base, tmp_path / "adapter", rows=variant.rows, **variant.lora)
    merged = tmp_path / "merged"
    result = foundry.merge(base, adapter, merged, quantised=variant.in_4bit, prove="weights")
    assert "refused" not in result, result
    assert tuple(result["mended"]) == variant.mended
    assert result["proof"]["weights"]["compared"] == result["proof"]["weights"]["tensors"]
    seen = foundry.compare(base, adapter, merged, in_4bit=variant.in_4bit)
    assert seen["difference"] <= (0.05 if variant.in_4bit else 1e-5)
    assert seen["agreement"] == 1.0
    assert seen["generated"] == 5


@pytest.mark.axolotl
def test_axolotls_own_merge_of_qlora_is_what_has_to_be_mended(
    foundry: Foundry, demo: Demo, tmp_path: Path
) -> None:
    """When this fails, the hooks in `merge.py` may go."""
    adapter = foundry.adapter(demo.model, tmp_path / "adapter")
    foundry.axolotl(demo.model, adapter, tmp_path / "merged")
    shutil.copytree(demo.model, tmp_path / "whole")
    shutil.copyfile(tmp_path / "merged/model.safetensors", tmp_path / "whole/model.safetensors")
    seen = foundry.compare(demo.model, adapter, tmp_path / "whole", in_4bit=True)
    assert seen["agreement"] < 0.9


@pytest.mark.axolotl
def test_16_bit_models_of_several_shards_are_rounded_once(
    foundry: Foundry, bases: dict[str, Path], tmp_path: Path
) -> None:
    base = bases["shards"]
    jobs: list[tuple[bool, dict[str, Any], str]] = [
        (False, {"use_dora": True}, "weights"),
        (True, EMBEDDINGS, "logits"),
    ]
    for in_4bit, lora, prove in jobs:
        adapter = foundry.adapter(base, tmp_path / f"{prove}-adapter", **lora)
        out = tmp_path / prove
        result = foundry.merge(base, adapter, out, quantised=in_4bit, dtype="bfloat16", prove=prove)
        assert "refused" not in result, result
        assert result["proof"].get("logits", {"agreement": 1})["agreement"] > 0.95
        shards = sorted(file.name for file in base.glob("*.safetensors*"))
        assert sorted(file.name for file in out.glob("*.safetensors*")) == shards


def test_the_proof_finds_what_is_not_base_and_adapter(
    foundry: Foundry, demo: Demo, tmp_path: Path
) -> None:
    right = foundry.adapter(demo.model, tmp_path / "right")
    told = foundry.merge(demo.model, right, tmp_path / "merged", prove="weights")
    assert told["proof"]["weights"]["adapted"] == 14
    for name, wrong in {"rank": {"r": 8}, "alpha": {"lora_alpha": 17}}.items():
        adapter = tmp_path / name
        shutil.copytree(right, adapter)
        values = json.loads((adapter / "adapter_config.json").read_text()) | wrong
        (adapter / "adapter_config.json").write_text(json.dumps(values))
        refused = foundry.prove(demo.model, adapter, tmp_path / "merged")
        assert ("is not base and adapter" in str(refused)) == (name == "alpha")


def test_an_adapter_that_diverged_is_refused(foundry: Foundry, demo: Demo, tmp_path: Path) -> None:
    adapter = foundry.adapter(demo.model, tmp_path / "adapter")
    file = adapter / "adapter_model.safetensors"
    header = adapters.read_header(file)
    name, entry = next(iter(header.items()))
    with file.open("r+b") as stream:
        start = 8 + int.from_bytes(stream.read(8), "little")
        stream.seek(start + entry["data_offsets"][0])
        stream.write(b"\x00\x00\xc0\x7f")  # NaN
    refused = foundry.merge(demo.model, adapter, tmp_path / "merged")["refused"]
    assert f"NaN or infinity in {name}" in refused


def leviathan(*args: object, env: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    command = [LEVIATHAN, *map(str, args)]
    return subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True)


@dataclass(frozen=True)
class Trained:
    """A finished run, trained for real."""

    config: Path
    run: Run


@pytest.fixture(scope="module")
def trained(
    env: dict[str, str], make_config: MakeConfig, tmp_path_factory: pytest.TempPathFactory
) -> Trained:
    folder = tmp_path_factory.mktemp("trained")
    config = make_config(
        folder,
        adapter="qlora",
        load_in_4bit=True,
        num_epochs=1,
        eval_steps=6,
        save_steps=6,
        hub_token="hf_" + "s" * 30,
    )
    with Forge(env) as forge:
        return Trained(config, Run(forge.must_train(config).run))


@pytest.fixture
def paused(trained: Trained, tmp_path: Path) -> Run:
    """The same run, as if it had been paused at its last step."""
    run = Run(tmp_path / "run")
    shutil.copytree(trained.run.path, run.path)
    session = run.session()
    assert session and session.end
    end = json.loads(session.end_file.read_text()) | {"kind": "paused"}
    session.end_file.write_text(json.dumps(end))
    return run


@pytest.mark.axolotl
def test_a_finished_run_becomes_a_model(
    trained: Trained, foundry: Foundry, env: dict[str, str], demo: Demo, tmp_path: Path
) -> None:
    done = leviathan("merge", trained.config, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Merging shard 1 of 1: model.safetensors" in done.stdout
    goal = tmp_path / "models" / "run-merged"
    assert [path.name for path in goal.parent.iterdir()] == [goal.name]
    record = json.loads((goal / merging.RECORD).read_text())
    session = trained.run.session()
    assert session and session.end
    assert record["step"] == session.end.step
    assert record["loss"] is not None
    assert record["rounded_to_4bit"]
    assert set(record["files"]) == {file.name for file in goal.iterdir()} - {merging.RECORD}
    card = (goal / "README.md").read_text()
    assert card.startswith("---\n")
    assert "| learning_rate | 0.01 |" in card
    assert "ssssss" not in card + json.dumps(record)
    seen = foundry.compare(demo.model, trained.run.final, goal, in_4bit=True)
    assert seen["difference"] <= 0.05
    assert seen["agreement"] == 1.0
    assert seen["generated"] == 5

    again = leviathan("merge", trained.config, env=env, cwd=tmp_path)
    assert again.returncode == 2
    assert "models/run-merged exists already." in again.stderr


def test_every_way_to_name_an_adapter(trained: Trained) -> None:
    run = trained.run
    steps = sorted(int(path.name[11:]) for path in run.path.glob("checkpoint-[0-9]*"))
    last = run.checkpoint(steps[-1])
    assert adapters.choose(run, "final").path == run.final
    assert adapters.choose(run, "checkpoint-final").path == run.final
    assert adapters.choose(run, str(run.final)).path == run.final
    assert adapters.choose(run, "latest").path == last
    assert adapters.choose(run, str(steps[0])).path == run.checkpoint(steps[0])
    assert adapters.choose(run, f"checkpoint-{steps[0]}").facts
    assert adapters.choose(Run(Path("elsewhere")), f"{last}/").run.name == run.name
    best = adapters.choose(run, "best").facts
    assert best and best.eval_loss is not None
    final = adapters.choose(run, "final")
    assert final.facts and final.facts.step == steps[-1]
    with pytest.raises(UsageError, match="no checkpoint of step 7"):
        adapters.choose(run, "7")
    with pytest.raises(UsageError, match="No checkpoint"):
        adapters.choose(run, "nowhere/checkpoint-3")


def test_a_run_of_plain_axolotl_needs_its_config_named(trained: Trained, paused: Run) -> None:
    shutil.rmtree(paused.path / ".leviathan")
    shutil.rmtree(paused.final)
    for seal in paused.path.glob("*/leviathan.json"):
        seal.unlink()
    assert adapters.choose(paused, "final").path == paused.path
    goal = paused.path.with_name("goal")
    with pytest.raises(UsageError, match="Nothing tells with which settings"):
        merging.make_plan(paused, "final", goal)
    cfg = load_config(trained.config)
    assert merging.make_plan(paused, "final", goal, config=cfg).quantised


def test_of_an_unfinished_run_nothing_is_guessed(
    paused: Run, env: dict[str, str], tmp_path: Path
) -> None:
    refused = leviathan("merge", paused.path, env=env, cwd=tmp_path)
    assert refused.returncode == 2
    first, second = refused.stderr.strip().splitlines()
    assert "run is not finished: it paused at step" in first
    assert "(latest)" in first
    assert "(best, eval loss" in first
    assert "leviathan merge run --checkpoint latest" in second
    assert not (tmp_path / "models").exists()


def test_what_is_damaged_missing_or_of_another_base_is_refused(
    trained: Trained, paused: Run, demo: Demo, bases: dict[str, Path], tmp_path: Path
) -> None:
    run, goal = paused, tmp_path / "goal"
    cfg = load_config(trained.config)

    def refused(choice: str, **values: str) -> str:
        named = replace(cfg, values={**cfg.values, **values})
        with pytest.raises(LeviathanError) as caught:
            merging.make_plan(run, choice, goal, config=named)
        assert caught.value.hint
        return caught.value.message

    assert "gone does not exist" in refused("latest", base_model="./gone")
    assert "is 32" in refused("latest", base_model=str(bases["other"])).replace("[", "")
    twin = tmp_path / "twin"
    shutil.copytree(demo.model, twin)
    assert merging.make_plan(
        run, "latest", goal, config=replace(cfg, values={**cfg.values, "base_model": str(twin)})
    )
    _flip(twin / "model.safetensors", -100)
    assert "whose weights" in refused("latest", base_model=str(twin))
    newest = adapters.choose(run, "latest").path
    _flip(newest / "adapter_model.safetensors", 2000)
    name = newest.name
    assert f"{name} is not intact: adapter_model.safetensors" in refused(name)
    plain = tmp_path / "plain"
    shutil.copytree(trained.run.final, plain)
    with (plain / "adapter_model.safetensors").open("r+b") as stream:
        stream.truncate(5000)
    assert "cut off" in refused(str(plain)) or "bytes instead of" in refused(str(plain))
    (plain / "adapter_config.json").write_text('{"peft_type": "VERA"}')
    assert "only LoRA" in refused(str(plain))
    assert not goal.exists()


def _flip(file: Path, at: int) -> None:
    with file.open("r+b") as stream:
        stream.seek(at, os.SEEK_END if at < 0 else os.SEEK_SET)
        byte = stream.read(1)
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte[0] ^ 0xFF]))


def test_what_is_no_merged_model_is_never_replaced(trained: Trained, tmp_path: Path) -> None:
    goal = tmp_path / "goal"
    (goal / "thesis").mkdir(parents=True)
    (goal / "thesis" / "chapter1.txt").write_text("years of work")
    for folder in (goal, trained.run.path, trained.run.path.parent):
        with pytest.raises(UsageError, match="is no merged model"):
            merging.make_plan(trained.run, "final", folder, replace=True)
    assert (goal / "thesis" / "chapter1.txt").exists()


def test_a_disk_that_is_too_small_is_told_before(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging, "RESERVE", 1 << 60)
    with pytest.raises(LeviathanError, match=r"The model needs .* GB free"):
        merging.make_plan(trained.run, "final", tmp_path / "goal")


@pytest.fixture
def large(
    foundry: Foundry, bases: dict[str, Path], make_config: MakeConfig, tmp_path: Path
) -> list[str]:
    """The arguments of a merge into a base of several shards."""
    adapter = foundry.adapter(bases["shards"], tmp_path / "adapter")
    path = make_config(tmp_path, base_model=str(bases["shards"]))
    return ["merge", str(path), "--checkpoint", str(adapter), "--output"]


def begin(args: list[str], until: str, env: dict[str, str]) -> subprocess.Popen[str]:
    """Start the command line and wait for a line of it."""
    process = subprocess.Popen(
        [LEVIATHAN, *args],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    for line in process.stdout:
        if line.startswith(until):
            return process
    raise AssertionError(process.communicate()[1])


def children_of(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def gone(pids: list[int]) -> bool:
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}/exe").exists() for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_killed_in_the_middle_it_keeps_the_old_model_and_the_next_merge_replaces_it(
    large: list[str], env: dict[str, str], tmp_path: Path, bases: dict[str, Path]
) -> None:
    goal = tmp_path / "models" / "m"
    shutil.copytree(bases["tied"], goal)
    old = (goal / "model.safetensors").read_bytes()
    process = begin([*large, str(goal), "--yes"], "Merging shard", env)
    children = children_of(process.pid)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert children
    assert gone(children)
    assert (goal / "model.safetensors").read_bytes() == old
    assert sorted(path.name for path in goal.parent.iterdir()) == [".m.merging", "m"]

    command = [LEVIATHAN, *large, str(goal), "--yes", "--json", "--prove", "none"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, env=env, stdout=pipe, stderr=pipe, text=True)
    while not children_of(process.pid):
        time.sleep(0.01)
    rival = leviathan(*large, goal, "--yes", env=env, cwd=tmp_path)
    assert rival.returncode == 1
    assert "Another merge is writing the same model." in rival.stderr
    told, errors = process.communicate()
    assert process.returncode == 0, errors
    assert json.loads(told) == json.loads((goal / merging.RECORD).read_text())
    assert json.loads(told)["proof"] == {}
    assert not (goal / "model.safetensors").exists()
    assert len(list(goal.glob("model-*.safetensors"))) == 3
    assert [path.name for path in goal.parent.iterdir()] == ["m"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_nothing(
    large: list[str], env: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    goal = tmp_path / "models" / "m"
    process = begin([*large, str(goal)], "Loading", env)
    while not (children := children_of(process.pid)):
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert "Nothing was changed." in errors
    assert gone(children)
    assert list(goal.parent.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_disk_that_fills_up_keeps_the_old_model(
    large: list[str], env: dict[str, str], tmp_path: Path, bases: dict[str, Path]
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    size = sum(file.stat().st_size for file in bases["shards"].iterdir())
    size += merging.RESERVE + (1 << 20)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], check=True)
    try:
        goal = disk / "m"
        shutil.copytree(bases["tied"], goal)
        process = begin([*large, str(goal), "--yes"], "Merging shard", env)
        with (disk / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError):
            while True:
                filler.write(b"0" * (1 << 20))
        _, errors = process.communicate()
        assert process.returncode == 1
        assert f"The disk of {disk} is full" in errors
        assert "Traceback" not in errors
        assert sorted(path.name for path in disk.iterdir()) == ["filler", "m"]
        assert (goal / "config.json").read_bytes() == (bases["tied"] / "config.json").read_bytes()
    finally:
        subprocess.run(["umount", disk], check=True)
