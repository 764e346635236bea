#!/usr/bin/env python3
"""Measure the shipped settings on this machine's GPU, with a model of random weights.

    scripts/measure_gpu.sh [--gpu 16GB] [--steps 24] [--out work/measure]

makes a model of exactly the shape of Qwen3-8B (16 GB on the disk, no download), trains it with
configs/leviathan_10pct_a4000.yaml under the cap, pauses and resumes it, and prints a table:
peak of memory, time of a step and of a save, how long a pause takes, and how far a resumed
training differs from a straight one. `--shape tiny` tries the script itself on a CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "configs" / "leviathan_10pct_a4000.yaml"
SHAPES: dict[str, dict[str, Any]] = {
    "qwen3-8b": {  # as in the config.json of Qwen/Qwen3-8B
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
        "max_position_embeddings": 40960,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
    },
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "vocab_size": 512,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
    },
}
SHARD = 4 << 30
"""Bytes of a file of weights."""
CONTEXT = 600 << 20
"""Bytes of the cap that CUDA takes for itself, which torch does not count."""
ON_A_CPU = {
    **dict.fromkeys(("bf16", "tf32", "lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel"), False),
    "sequence_len": 256,
    "val_set_size": 4,
    "lora_r": 8,
}


def make_model(folder: Path, shape: str, tokenizer: Path) -> None:
    """Write a Qwen3 of this shape with random weights, shard by shard; kept if it is there."""
    if folder.exists():
        return
    import torch
    from safetensors.torch import save_file
    from transformers import Qwen3Config, Qwen3ForCausalLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    kind = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    settings = Qwen3Config(**SHAPES[shape], dtype=str(kind).removeprefix("torch."))
    settings.architectures = ["Qwen3ForCausalLM"]
    with torch.device("meta"):
        shapes = {name: t.shape for name, t in Qwen3ForCausalLM(settings).state_dict().items()}
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    temporary.mkdir(parents=True)
    settings.save_pretrained(temporary)
    for file in tokenizer.glob("*token*"):
        shutil.copy(file, temporary)
    torch.manual_seed(0)
    shards: list[dict[str, Any]] = [{}]
    placed: dict[str, str] = {}
    held = 0
    for name, dimensions in shapes.items():
        weight = torch.empty(dimensions, dtype=kind, device=device)
        weight = weight.fill_(1) if "norm" in name else weight.normal_(0, 0.02)
        if held + weight.nbytes > SHARD:
            _write(temporary, shards, placed, save_file)
            held = 0
        shards[-1][name] = weight.cpu()
        held += weight.nbytes
    _write(temporary, shards, placed, save_file)
    index = {"metadata": {}, "weight_map": placed}
    (temporary / "model.safetensors.index.json").write_text(json.dumps(index))
    temporary.rename(folder)


def _write(
    folder: Path, shards: list[dict[str, Any]], placed: dict[str, str], save_file: Any
) -> None:
    name = f"model-{len(shards):05}.safetensors"
    save_file(shards[-1], folder / name, metadata={"format": "pt"})
    placed |= dict.fromkeys(shards[-1], name)
    shards[-1] = {}
    shards.append({})


def make_config(out: Path, shape: str, steps: int) -> Path:
    """The shipped config, with the random model and rows of the demo; few steps."""
    import make_demo

    rows = max(640, steps * 60)
    make_demo.make_demo(out / "demo", rows=rows)
    make_model(out / shape, shape, out / "demo" / "model")
    values = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    values |= {
        "base_model": str(out / shape),
        "output_dir": str(out / "run"),
        "datasets": [{"path": str(out / "demo" / "data.jsonl"), "type": "alpaca"}],
        "dataset_prepared_path": str(out / f"prepared-{shape}"),
        "plugins": ["measure_recorder.Recorder", "leviathan_train.plugin.LeviathanPlugin"],
        "val_set_size": 32,
        "eval_sample_packing": False,
        "eval_steps": max(2, steps // 2 - 1),  # not where a checkpoint is saved
        "num_epochs": 1000,
        "warmup_steps": 2,
    }
    values["datasets"][0]["ds_type"] = "json"
    if shape == "tiny":
        values |= ON_A_CPU
    path = out / "config.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return path


def leviathan(*words: str, env: dict[str, str]) -> Any:
    """Run a command of leviathan; the JSON that it prints.

    Raises:
        SystemExit: it failed.
    """
    print(f"$ leviathan {' '.join(words)}", file=sys.stderr, flush=True)
    command = str(Path(sys.executable).parent / "leviathan")
    done = subprocess.run([command, *words], stdout=subprocess.PIPE, text=True, env=env)
    if done.returncode:
        print(done.stdout, file=sys.stderr)
        raise SystemExit(f"leviathan {words[0]} ended with exit status {done.returncode}.")
    return json.loads(done.stdout) if "--json" in words else None


def notes(folder: Path) -> list[dict[str, Any]]:
    """All that the recorders of the trainings wrote."""
    return [
        json.loads(line)
        for file in sorted(folder.glob("*.jsonl"))
        for line in file.read_text().splitlines()
    ]


def pause_seconds(run: Path) -> list[float]:
    """From each request to pause until the checkpoint was sealed and the end written."""
    from leviathan_train.run.folder import Run

    return [
        session.end.at - session.asked.at
        for session in Run(run).sessions()
        if session.end and session.asked
    ]


def again(out: Path, config: Path, half: int, steps: int, env: dict[str, str]) -> Any:
    """Resume once more from where the paused training did, without a pause: the GPU's own noise."""
    tests = out / ".selftest" / "run"
    run = out / "again"
    shutil.rmtree(run, ignore_errors=True)
    name = f"checkpoint-{half}"
    shutil.copytree(tests / "straight" / name, run / name, copy_function=shutil.copy2)
    sets = (f"output_dir={run}", f"max_steps={steps}", f"save_steps={half}", "logging_steps=1")
    words = [word for one in sets for word in ("--set", one)]
    leviathan("train", str(config), "--yes", "--resume", "auto", *words, env=env)
    last = f"checkpoint-{steps}"
    job = [sys.executable, "-m", "leviathan_train.jobs.compare"]
    done = subprocess.run(
        [*job, tests / "straight" / last, run / last], stdout=subprocess.PIPE, check=True, env=env
    )
    return json.loads(done.stdout)


def size(count: float | None) -> str:
    return "-" if count is None else f"{count / 2**30:.2f} GiB"


def difference(found: dict[str, Any]) -> str:
    if found["identical"]:
        return "none: identical to the last bit"
    parts = (f"{key} {found[key]:.2g}" for key in ("adapter", "optimizer", "loss"))
    return f"at most {', '.join(parts)}"


def machine() -> tuple[str, str]:
    """Name of the GPU or of none, and versions."""
    from importlib.metadata import version

    import torch

    name = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU (CPU)"
    libraries = ("axolotl", "transformers", "torch", "bitsandbytes")
    return name, ", ".join(f"{library} {version(library)}" for library in libraries)


def table(rows: list[tuple[str, str]]) -> str:
    lines = [f"| {name} | {value} |" for name, value in rows]
    return "\n".join(["| what | measured |", "|---|---|", *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shape", choices=sorted(SHAPES), default="qwen3-8b")
    parser.add_argument("--gpu", default="16GB", metavar="SIZE", help="memory to train within")
    parser.add_argument("--steps", type=int, default=24, help="of each training")
    parser.add_argument("--out", type=Path, default=Path("work/measure"), metavar="DIR")
    options = parser.parse_args()

    from leviathan_train.launch.cost import card_size

    out, cap = options.out.absolute(), card_size(options.gpu)
    out.mkdir(parents=True, exist_ok=True)
    taken = out / "notes"
    shutil.rmtree(taken, ignore_errors=True)
    taken.mkdir()
    path = os.pathsep.join(filter(None, (str(ROOT / "scripts"), os.environ.get("PYTHONPATH"))))
    env = os.environ | {
        "PYTHONPATH": path,
        "MEASURE_OUT": str(taken),
        "MEASURE_MEMORY": str(cap - CONTEXT),
        "AXOLOTL_DO_NOT_TRACK": "1",
    }
    config, half = make_config(out, options.shape, options.steps), options.steps // 2
    checked = leviathan("check", str(config), "--gpu", options.gpu, "--json", env=env)
    reckoned = next(f["numbers"] for f in checked["findings"] if f["topic"] == "memory")
    began = time.monotonic()
    resumed = leviathan("selftest", str(config), "--steps", str(options.steps), "--json", env=env)
    seconds = time.monotonic() - began
    seen = notes(taken)
    noise = again(out, config, half, options.steps, env)
    steps = [one for one in seen if "step" in one]
    saves = [one["seconds"] for one in seen if "saved" in one]
    pauses = pause_seconds(out / ".selftest" / "run" / "paused")
    checkpoint = out / ".selftest" / "run" / "straight" / f"checkpoint-{options.steps}"
    written = sum(file.stat().st_size for file in checkpoint.iterdir())
    allocated = max((one["allocated"] for one in steps if "allocated" in one), default=None)
    name, versions = machine()
    estimate = size(reckoned["bytes"]) if reckoned else "-"
    rows = [
        ("machine", name),
        ("versions", versions),
        ("model", f"random weights in the shape of {options.shape}, {CONFIG.name}"),
        ("cap on the memory", size(cap) if allocated else "none on a CPU"),
        ("peak of memory, as `check` reckons", estimate),
        ("peak that torch allocated", size(allocated)),
        (
            "peak that torch reserved" if allocated else "peak of the process",
            size(max(one["reserved"] for one in steps)),
        ),
        ("a step, median", f"{statistics.median(one['seconds'] for one in steps):.2f} s"),
        ("a save, with hashing and seal", f"{max(saves):.2f} s" if saves else "-"),
        ("a checkpoint", f"{written / 2**20:.0f} MiB"),
        ("from `pause` to a sealed checkpoint", f"{max(pauses):.2f} s" if pauses else "-"),
        ("straight against paused and resumed", difference(resumed)),
        ("straight against resumed, no pause", difference(noise)),
        ("three trainings and their starts", f"{seconds:.0f} s"),
    ]
    text = table(rows)
    (out / "measured.md").write_text(f"{text}\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
