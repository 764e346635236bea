"""Merges on the real Axolotl, on a CPU: what they answer, and what they leave when they fail."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file

from leviathan_train.config.load import load_config
from leviathan_train.errors import LeviathanError, UsageError
from leviathan_train.merge import adapters, output
from leviathan_train.merge import plan as plans
from leviathan_train.merge.publish import RECORD
from leviathan_train.run.folder import Run
from leviathan_train.system.safetensors import read_header
from support.demo import Demo, MakeConfig
from support.driver import LEVIATHAN
from support.forked import Forge
from support.merges import Foundry

pytestmark = [pytest.mark.train, pytest.mark.slow]

EMBEDDINGS = {"modules_to_save": ["embed_tokens", "lm_head"]}
EXPERTS = {"target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]}
HEAD = ["lm_head.weight"]
SOURCES = Path(__file__).resolve().parents[2] / "src"


@dataclass(frozen=True)
class Variant:
    """An adapter of some kind on a base of some kind.

    Attributes:
        nf4: how the base was rounded in training; None if it was not.
        rows: of the vocabulary in training; 0 as in the base.
        untied: what the merged model no longer ties.
    """

    base: str = "plain"
    lora: dict[str, Any] = field(default_factory=dict)
    nf4: dict[str, Any] | None = None
    rows: int = 0
    untied: list[str] = field(default_factory=list)
    dtype: str = "float32"


def targets(*names: str, **more: Any) -> dict[str, Any]:
    return {"target_modules": ["q_proj", *names], **more}


TIE = {"ensure_weight_tying": True}
VARIANTS = {
    "lora": Variant(),
    "lora_tied": Variant("tied"),
    "rslora": Variant(lora={"use_rslora": True}),
    "dora": Variant(lora={"use_dora": True}),
    "patterns": Variant(lora={"rank_pattern": {"q_proj": 4}, "alpha_pattern": {"q_proj": 32}}),
    "saved_modules": Variant(lora=EMBEDDINGS),
    "saved_modules_tied": Variant("tied", EMBEDDINGS, untied=HEAD),
    "saved_embedding_tied": Variant("tied", {"modules_to_save": ["embed_tokens"]}, untied=HEAD),
    "saved_and_kept_tied": Variant("tied", {"modules_to_save": ["embed_tokens"], **TIE}),
    "adapted_head_tied": Variant("tied", targets("lm_head"), untied=HEAD),
    "adapted_embedding": Variant(lora=targets("embed_tokens")),
    "adapted_embedding_tied": Variant("tied", targets("embed_tokens"), untied=HEAD),
    "adapted_and_kept_tied": Variant("tied", targets("embed_tokens", **TIE)),
    "both_adapted_tied": Variant("tied", targets("embed_tokens", "lm_head"), untied=HEAD),
    "trained_tokens": Variant(lora={"trainable_token_indices": {"embed_tokens": [3, 5]}}),
    "trained_tokens_tied": Variant("tied", {"trainable_token_indices": {"embed_tokens": [3, 5]}}),
    "larger_vocabulary": Variant(lora=EMBEDDINGS, rows=544),
    "larger_adapted_vocabulary": Variant(lora=targets("embed_tokens", "lm_head"), rows=544),
    "larger_and_kept_tied": Variant("tied", {"modules_to_save": ["embed_tokens"], **TIE}, rows=544),
    "biases": Variant("biased", {"bias": "all"}),
    "adapted_biases": Variant("biased", targets(lora_bias=True)),
    "experts_beside_it": Variant("experts", targets()),
    "experts": Variant("experts", targets(**EXPERTS)),
    "shards": Variant("shards", dtype="bfloat16"),
    "shards_dora": Variant("shards", {"use_dora": True}, dtype="bfloat16"),
    "qlora": Variant(nf4={}),
    "qlora_rounded_once": Variant(nf4={"double_quant": False}),
    "qlora_skipping": Variant(nf4={"skip": ["q_proj", "lm_head"]}),
    "qlora_tied": Variant("tied", nf4={}),
    "qlora_on_some_layers": Variant(lora=targets(), nf4={}),
    "qlora_rslora": Variant(lora={"use_rslora": True}, nf4={}),
    "qlora_dora": Variant(lora={"use_dora": True}, nf4={}),
    "qlora_saved_modules": Variant(lora=EMBEDDINGS, nf4={}),
    "qlora_saved_modules_tied": Variant("tied", EMBEDDINGS, {}, untied=HEAD),
    "qlora_larger_vocabulary": Variant(lora=EMBEDDINGS, nf4={}, rows=544),
    "qlora_beside_experts": Variant("experts", targets(), nf4={}),
    "qlora_with_experts": Variant("experts", targets(), nf4={"experts": True}),
    "qlora_shards": Variant("shards", EMBEDDINGS, {"double_quant": True}, dtype="bfloat16"),
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
        "biased": foundry.model(demo.model, folder / "biased", attention_bias=True),
        "experts": foundry.model(
            demo.model,
            folder / "experts",
            model_type="mixtral",
            max_shard_size="200KB",  # the experts of a layer are in several files
            vocab_size=512,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            num_local_experts=12,
            head_dim=16,
        ),
        "other": foundry.model(demo.model, folder / "other", hidden_size=32, head_dim=8),
    }


@pytest.mark.axolotl
@pytest.mark.parametrize("name", VARIANTS)
def test_every_tensor_is_that_of_peft_to_the_last_bit(
    name: str, foundry: Foundry, bases: dict[str, Path], tmp_path: Path
) -> None:
    """The base in 4 bits is loaded by transformers and bitsandbytes, and merged by peft.

    What the models answer is compared only without 4 bits: bitsandbytes' product on a CPU is
    off by more than a wrong merge would be.
    """
    variant, nf4 = VARIANTS[name], VARIANTS[name].nf4
    base, merged = bases[variant.base], tmp_path / "merged"
    adapter = foundry.adapter(base, tmp_path / "adapter", rows=variant.rows, **variant.lora)
    job: dict[str, Any] = {"quantised": nf4 is not None, "dtype": variant.dtype}
    if nf4:
        job["double_quant"] = nf4.get("double_quant", True)
        job["quantise_experts"] = nf4.get("experts", False)
        job["skip_modules"] = nf4.get("skip")
    result = foundry.merge(base, adapter, merged, **job)
    assert "refused" not in result, result
    assert result["untied"] == variant.untied
    trained = {"in_4bit": nf4 is not None, "dtype": variant.dtype, **(nf4 or {})}
    seen = foundry.versus_peft(base, adapter, merged, **trained)
    assert seen["differ"] == {}
    assert seen["tensors"] == result["tensors"]
    assert [file.name for file in sorted(merged.glob("*.safetensors*"))] == [
        file.name for file in sorted(base.glob("*.safetensors*"))
    ]
    answers = foundry.compare(base, adapter, merged, in_4bit=nf4 is not None)
    assert answers["generated"] == 5
    if nf4 is None and variant.dtype == "float32":
        assert answers["difference"] <= 1e-5
        assert answers["agreement"] == 1.0


def test_the_comparison_with_peft_finds_one_wrong_value(
    foundry: Foundry, demo: Demo, tmp_path: Path
) -> None:
    adapter, merged = foundry.adapter(demo.model, tmp_path / "adapter"), tmp_path / "merged"
    foundry.merge(demo.model, adapter, merged, quantised=True)
    file = merged / "model.safetensors"
    entry = read_header(file)["model.layers.1.mlp.up_proj.weight"]
    _flip(file, entry.start + entry.size - 1)
    seen = foundry.versus_peft(demo.model, adapter, merged, in_4bit=True)
    assert list(seen["differ"]) == ["model.layers.1.mlp.up_proj.weight"]
    wrong = foundry.versus_peft(demo.model, adapter, merged, in_4bit=True, double_quant=False)
    assert len(wrong["differ"]) == 14
    assert len(foundry.versus_peft(demo.model, adapter, merged)["differ"]) == 14


@pytest.fixture(scope="module")
def newest(env: dict[str, str]) -> Iterator[Foundry]:
    """The Axolotl that rounds in a merge what training rounds: 0.21 and newer."""
    for python in (sys.executable, os.environ.get("LEVIATHAN_PYTHON_AXOLOTL_021")):
        code = "from axolotl.utils.nf4 import bnb_4bit_skip_modules"
        if not python:
            continue
        asked = subprocess.run([python, "-c", code], env=env, capture_output=True)
        if asked.returncode == 0:
            with Foundry(env | {"PYTHONPATH": str(SOURCES)}, python) as server:
                yield server
            return
    pytest.skip(
        "Axolotl 0.21 is not installed here. Name a Python that has it:"
        " LEVIATHAN_PYTHON_AXOLOTL_021=/path/to/python"
    )


@pytest.mark.parametrize("name", ["lora", "rslora", "patterns", "qlora", "qlora_tied", "shards"])
def test_it_is_what_axolotl_merges_where_that_rounds_as_training_did(
    name: str, foundry: Foundry, newest: Foundry, bases: dict[str, Path], tmp_path: Path
) -> None:
    variant = VARIANTS[name]
    base, in_4bit = bases[variant.base], variant.nf4 is not None
    adapter = foundry.adapter(base, tmp_path / "adapter", **variant.lora)
    foundry.merge(base, adapter, tmp_path / "ours", quantised=in_4bit, dtype=variant.dtype)
    newest.axolotl(base, adapter, tmp_path / "theirs", simulate_nf4=in_4bit)
    off = foundry.difference(tmp_path / "ours", tmp_path / "theirs")
    # It adds up B A in another order than peft: one rounding of 32 bits, or of the format.
    assert off["largest"] <= (4e-3 if variant.dtype == "bfloat16" else 1e-6)
    assert off["only_in_one"] == []


def test_a_vocabulary_of_which_a_part_is_lost_is_refused(
    foundry: Foundry, demo: Demo, tmp_path: Path
) -> None:
    lora = {"modules_to_save": ["embed_tokens"]}
    adapter = foundry.adapter(demo.model, tmp_path / "adapter", rows=544, **lora)
    file = adapter / "adapter_model.safetensors"
    tensors = {name: value for name, value in load_file(file).items() if "lm_head" not in name}
    save_file(tensors, file, metadata={"format": "pt"})
    refused = foundry.merge(demo.model, adapter, tmp_path / "merged")["refused"]
    assert "lm_head.weight has 512, model.embed_tokens.weight has 544 rows" in refused


def test_an_adapter_that_lacks_or_holds_too_much_is_refused(
    foundry: Foundry, demo: Demo, tmp_path: Path
) -> None:
    adapter = foundry.adapter(demo.model, tmp_path / "adapter")
    file = adapter / "adapter_model.safetensors"
    whole = load_file(file)
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    less = {key: value for key, value in whole.items() if key != name}
    more = whole | {name.replace("layers.0", "layers.7"): whole[name].clone()}
    for tensors, told in ((less, "lacks"), (more, "holds")):
        save_file(tensors, file, metadata={"format": "pt"})
        refused = foundry.merge(demo.model, adapter, tmp_path / told)["refused"]
        assert f"The adapter {told} model.layers." in refused
        assert not list((tmp_path / told).glob("*"))


def test_the_answers_are_compared_on_demand(
    foundry: Foundry, bases: dict[str, Path], tmp_path: Path
) -> None:
    lora: dict[str, Any] = dict(EMBEDDINGS)
    adapter = foundry.adapter(bases["shards"], tmp_path / "adapter", **lora)
    job = {"quantised": True, "dtype": "bfloat16", "prove": "logits"}
    result = foundry.merge(bases["shards"], adapter, tmp_path / "merged", **job)
    assert result["logits"]["agreement"] > 0.9


def test_an_adapter_that_diverged_is_refused(foundry: Foundry, demo: Demo, tmp_path: Path) -> None:
    adapter = foundry.adapter(demo.model, tmp_path / "adapter")
    file = adapter / "adapter_model.safetensors"
    name, entry = next(iter(read_header(file).items()))
    with file.open("r+b") as stream:
        stream.seek(entry.start)
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
    record = json.loads((goal / RECORD).read_text())
    session = trained.run.session()
    assert session and session.end
    assert record["step"] == session.end.step
    assert record["loss"] is not None
    assert record["rounded_to_4bit"]
    assert set(record["files"]) == {file.name for file in goal.iterdir()} - {RECORD}
    card = (goal / "README.md").read_text()
    assert card.startswith("---\n")
    assert "| learning_rate | 0.01 |" in card
    assert "ssssss" not in card + json.dumps(record)
    seen = foundry.versus_peft(demo.model, trained.run.final, goal, in_4bit=True)
    assert seen["differ"] == {}
    weights = record["proof"]["weights"]
    assert (weights["tensors"], weights["adapted"]) == (seen["tensors"], 14)

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


def test_an_adapter_named_by_its_path_needs_no_run(
    trained: Trained, env: dict[str, str], tmp_path: Path
) -> None:
    adapter = tmp_path / "from-elsewhere"
    shutil.copytree(trained.run.final, adapter)
    values = yaml.safe_load(trained.config.read_text()) | {"output_dir": "runs/never-begun"}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(values))
    none = leviathan("merge", "c.yaml", env=env, cwd=tmp_path)
    assert none.returncode == 2 and "its run does not exist" in none.stderr
    done = leviathan("merge", "c.yaml", "--checkpoint", adapter, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "models/never-begun-merged" / RECORD).exists()


def test_a_run_of_plain_axolotl_needs_its_config_named(trained: Trained, paused: Run) -> None:
    shutil.rmtree(paused.path / ".leviathan")
    shutil.rmtree(paused.final)
    for seal in paused.path.glob("*/leviathan.json"):
        seal.unlink()
    assert adapters.choose(paused, "final").path == paused.path
    goal = paused.path.with_name("goal")
    with pytest.raises(UsageError, match="Nothing tells with which settings"):
        plans.make_plan(paused, "final", goal)
    cfg = load_config(trained.config)
    assert plans.make_plan(paused, "final", goal, config=cfg).quantised


def test_of_an_unfinished_run_nothing_is_guessed(
    paused: Run, env: dict[str, str], tmp_path: Path
) -> None:
    refused = leviathan("merge", paused.path, env=env, cwd=tmp_path)
    assert refused.returncode == 2
    first, second = refused.stderr.strip().splitlines()
    assert "run is not finished: it paused at step" in first
    assert "(latest" in first
    assert "best, eval loss" in first
    assert re.search(r"leviathan merge \S*run --checkpoint latest", second)
    assert not (tmp_path / "models").exists()


def test_what_is_damaged_missing_or_of_another_base_is_refused(
    trained: Trained, paused: Run, demo: Demo, bases: dict[str, Path], tmp_path: Path
) -> None:
    run, goal = paused, tmp_path / "goal"
    cfg = load_config(trained.config)

    def refused(choice: str, **values: str) -> str:
        named = replace(cfg, values={**cfg.values, **values})
        with pytest.raises(LeviathanError) as caught:
            plans.make_plan(run, choice, goal, config=named)
        assert caught.value.hint
        return caught.value.message

    assert "gone does not exist" in refused("latest", base_model="./gone")
    assert "is 32" in refused("latest", base_model=str(bases["other"])).replace("[", "")
    twin = tmp_path / "twin"
    shutil.copytree(demo.model, twin)
    assert plans.make_plan(
        run, "latest", goal, config=replace(cfg, values={**cfg.values, "base_model": str(twin)})
    )
    _flip(twin / "model.safetensors", -100)
    assert "twin is not the model that" in refused("latest", base_model=str(twin))
    newest = adapters.choose(run, "latest").path
    _flip(newest / "adapter_model.safetensors", 2000)
    name = newest.name
    assert f"{name} is not intact: adapter_model.safetensors" in refused(name)
    plain = tmp_path / "plain"
    shutil.copytree(trained.run.final, plain)
    with (plain / "adapter_model.safetensors").open("r+b") as stream:
        stream.truncate(5000)
    assert "adapter_model.safetensors has" in refused(str(plain)) or "cut off" in refused(
        str(plain)
    )
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
        with pytest.raises(UsageError, match="is not a merged model"):
            plans.make_plan(trained.run, "final", folder, replace=True)
    assert (goal / "thesis" / "chapter1.txt").exists()


def test_a_disk_that_is_too_small_is_told_before(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "RESERVE", 1 << 60)
    with pytest.raises(LeviathanError, match=r"The model needs .* free"):
        plans.make_plan(trained.run, "final", tmp_path / "goal")


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
    assert json.loads(told) == json.loads((goal / RECORD).read_text())
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
    size += output.RESERVE + (1 << 20)
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
