"""`leviathan train` against plain `accelerate launch -m axolotl.cli.train`, as ratios.

    python bench/train.py [--pairs 3] [--steps 2200] [--cold]

Both train the same tiny model on the CPU, in turns: seconds from Enter to the first logged
step, steps per second between the first and the last logged step, and, for leviathan, seconds
from Ctrl+C to the prompt. With --cold (as root), nothing is in the page cache at each start, as in
the evening after a day of other work.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
ENV = os.environ | {"AXOLOTL_DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Measured:
    """Seconds to the first step, and steps per second after it."""

    start: float
    speed: float


def config(folder: Path, name: str, steps: int, *, plugin: bool) -> Path:
    """A copy of the demo's config for `steps` steps of one small batch."""
    values = yaml.safe_load((ROOT / "configs/demo_cpu.yaml").read_text())
    values |= {
        "base_model": str(folder / "demo/model"),
        "datasets": [
            {"path": str(folder / "demo/data.jsonl"), "ds_type": "json", "type": "alpaca"}
        ],
        "dataset_prepared_path": str(folder / "prepared"),
        "output_dir": str(folder / name),
        "max_steps": steps,
        "num_epochs": 1000,
        "gradient_accumulation_steps": 1,
        "micro_batch_size": 1,
        "logging_steps": 1,
        "save_steps": steps * 2,
        "eval_steps": None,
        "val_set_size": 0,
    }
    if not plugin:
        values.pop("plugins")
        values.pop("leviathan_save_minutes")
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in values.items() if v is not None}))
    return path


def measure(command: list[str], marker: str, steps: int) -> Measured:
    """Run a training and time its logged steps as they appear on its output."""
    began = time.perf_counter()
    process = subprocess.Popen(
        command, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    times = []
    assert process.stdout
    tail = []
    for line in process.stdout:
        tail = [*tail[-20:], line]
        if marker in line and "eval_loss" not in line and "train_runtime" not in line:
            times.append(time.perf_counter())
    if process.wait() or len(times) < steps // 2:
        sys.exit("".join(tail))
    return Measured(times[0] - began, (len(times) - 1) / (times[-1] - times[0]))


def forget_files() -> None:
    """Drop the page cache; only root may."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def to_the_prompt(path: Path) -> float:
    """Seconds from Ctrl+C to the prompt."""
    process = subprocess.Popen(
        [BIN / "leviathan", "train", path], env=ENV, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    for line in process.stdout:
        if line.startswith("Step 50:"):
            break
    began = time.perf_counter()
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == 75
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2200)
    parser.add_argument("--cold", action="store_true", help="drop the page cache before each start")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        demo = [sys.executable, ROOT / "scripts/make_demo.py", "--out", folder / "demo"]
        subprocess.run(demo, check=True, stdout=subprocess.DEVNULL, env=ENV)
        accelerate = [BIN / "accelerate", "launch", "--cpu", "--num_processes", "1"]
        pairs: list[tuple[Measured, Measured]] = []
        for number in range(options.pairs + 1):
            # The first pair warms the caches; every other pair turns the order round.
            steps = 50 if number == 0 else options.steps
            plain = config(folder, f"plain{number}", steps, plugin=False)
            ours = config(folder, f"ours{number}", steps, plugin=True)
            runs = {
                "plain": (
                    [*map(str, accelerate), "-m", "axolotl.cli.train", str(plain)],
                    "'loss'",
                ),
                "ours": ([str(BIN / "leviathan"), "train", str(ours)], ": loss="),
            }
            found = {}
            for kind in sorted(runs, reverse=bool(number % 2)):
                if options.cold:
                    forget_files()
                found[kind] = measure(*runs[kind], steps)
            if number:
                pairs.append((found["ours"], found["plain"]))
                print(
                    f"pair {number}: first step {found['ours'].start:.1f} s against"
                    f" {found['plain'].start:.1f} s, {found['ours'].speed:.2f} steps/s against"
                    f" {found['plain'].speed:.2f}",
                    flush=True,
                )
        start = statistics.median(ours.start / plain.start for ours, plain in pairs)
        speed = statistics.median(ours.speed / plain.speed for ours, plain in pairs)
        prompt = to_the_prompt(config(folder, "prompt", 5000, plugin=True))
    print(f"time to the first step:  {start:.3f} of plain")
    print(f"steps per second:        {speed:.3f} of plain")
    print(f"Ctrl+C to the prompt:    {prompt:.1f} s")


if __name__ == "__main__":
    main()
