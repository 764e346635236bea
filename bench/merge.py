"""Time and memory of `leviathan merge` beside Axolotl's own merge of the same adapter.

    python bench/merge.py [--rounds N] [--layers N] [--json]

A model of random weights in bfloat16 and an adapter for all its linear layers are made.
Whole processes run by turns, and the medians of the ratios are told, without the proof and
with it. Peak memory is the sum of the peaks of all processes of a command. What leviathan
does besides is in its time: it checks base and adapter, hashes the model, forces it to disk,
and with the proof reads it again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support import merges  # noqa: E402

LEVIATHAN = str(Path(sys.executable).with_name("leviathan"))


@dataclass(frozen=True)
class Cost:
    """Seconds and bytes of one command."""

    seconds: float
    peak: int


def measure(command: list[str], env: dict[str, str], cwd: Path) -> Cost:
    """Run a command and follow the peak memory of each of its processes."""
    began = time.perf_counter()
    process = psutil.Popen(
        command, env=env, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    peaks: dict[int, int] = {}
    while process.poll() is None:
        for pid in [process.pid, *(child.pid for child in process.children(recursive=True))]:
            try:
                status = Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue
            lines = dict(line.split(":", 1) for line in status.splitlines())
            if "VmHWM" in lines:
                peaks[pid] = 1024 * int(lines["VmHWM"].split()[0])
        time.sleep(0.02)
    seconds = time.perf_counter() - began
    assert process.returncode == 0, process.stderr.read()[-3000:]
    return Cost(seconds, sum(peaks.values()))


def make_config(folder: Path, name: str, **values: object) -> Path:
    path = folder / f"{name}.yaml"
    common = {
        "base_model": str(folder / "base"),
        "output_dir": str(folder / name),
        "datasets": [{"path": str(folder / "data.jsonl"), "ds_type": "json", "type": "alpaca"}],
        "lora_r": 16,
        "lora_alpha": 32,
        "lora_target_linear": True,
        "sequence_len": 256,
        "micro_batch_size": 1,
        "gradient_accumulation_steps": 1,
        "num_epochs": 1,
        "learning_rate": 1e-4,
        "optimizer": "adamw_torch",
        "bf16": True,
        "lora_mlp_kernel": False,
        "lora_qkv_kernel": False,
        "lora_o_kernel": False,
    }
    path.write_text(yaml.safe_dump(common | values))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="turns (default: %(default)s)")
    parser.add_argument("--layers", type=int, default=10, help="of the model (default: 10)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    env = os.environ | {"AXOLOTL_DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory(prefix="bench_merge_") as name:
        folder = Path(name)
        script = ROOT / "scripts" / "make_demo.py"
        subprocess.run(
            [sys.executable, script, "--out", folder, "--rows", "64"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        with merges.Foundry(env) as foundry:
            foundry.model(
                folder / "model",
                folder / "base",
                dtype="bfloat16",
                hidden_size=1024,
                intermediate_size=4096,
                num_hidden_layers=options.layers,
                num_attention_heads=16,
                num_key_value_heads=8,
                head_dim=64,
                vocab_size=64_000,
                max_shard_size="200MB",
            )
            foundry.adapter(folder / "base", folder / "adapter", r=16, lora_alpha=32)
        size = sum(file.stat().st_size for file in (folder / "base").glob("*.safetensors"))
        told: dict[str, Any] = {"base_bytes": size, "rounds": options.rounds}
        for kind in ("lora", "qlora"):
            in_4bit = {"load_in_4bit": True} if kind == "qlora" else {}
            config = make_config(folder, kind, adapter=kind, **in_4bit)
            told[kind] = rounds(options.rounds, config, env, folder)
    if options.json:
        print(json.dumps(told, indent=2))
        return
    print(f"Base of {size / 1e9:.2f} GB, medians of {options.rounds} turns:")
    for kind in ("lora", "qlora"):
        for case, ratio in told[kind].items():
            print(f"{kind:6}{case:16}{ratio}")


def rounds(count: int, config: Path, env: dict[str, str], folder: Path) -> dict[str, object]:
    adapter = str(folder / "adapter")
    plain = [sys.executable, "-m", "axolotl.cli.merge_lora", str(config)]
    plain += ["--lora_model_dir", adapter, "--output_dir", str(folder / "plain")]
    ours = [LEVIATHAN, "merge", str(config), "--checkpoint", adapter, "--output"]
    ours += [str(folder / "ours"), "--json", "--prove"]
    found: dict[str, list[Cost]] = {"axolotl": [], "none": [], "weights": []}
    for _ in range(count):
        for proof in found:
            found[proof].append(
                measure(plain if proof == "axolotl" else [*ours, proof], env, folder)
            )
            shutil.rmtree(folder / ("plain" if proof == "axolotl" else "ours"))
    base = found.pop("axolotl")
    result: dict[str, object] = {
        "axolotl": {
            "seconds": round(statistics.median(cost.seconds for cost in base), 2),
            "peak_bytes": int(statistics.median(cost.peak for cost in base)),
        }
    }
    for proof, costs in found.items():
        pairs = list(zip(costs, base, strict=True))
        result[f"proof_{proof}"] = {
            "time_ratio": round(statistics.median(a.seconds / b.seconds for a, b in pairs), 3),
            "memory_ratio": round(statistics.median(a.peak / b.peak for a, b in pairs), 3),
        }
    return result


if __name__ == "__main__":
    main()
