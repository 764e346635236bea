"""Whether a resume deep in an epoch takes longer than one at its beginning.

    python bench/resume.py [--rounds N] [--steps N]

One training of a tiny model over one epoch of so many steps leaves a checkpoint at its beginning
and one near its end. The seconds from the command to the first new step are told for both, by
turns, and their ratio.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from faults.bench import environment, settings  # noqa: E402

LEVIATHAN = str(Path(sys.executable).with_name("leviathan"))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2000)
    args = parser.parse_args()
    early, late = 10, args.steps - 10
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        env = environment()
        values = settings(folder, env) | {
            "max_steps": None,
            "num_epochs": 1,
            "micro_batch_size": 1,
            "gradient_accumulation_steps": 1,
            "val_set_size": 0,
            "eval_steps": None,
            "save_steps": late,
            "save_total_limit": None,
            "leviathan_keep_best": 0,
            "logging_steps": 1,
        }
        rows = folder / "demo/data.jsonl"
        lines = rows.read_text().splitlines()
        many = [lines[n % len(lines)] for n in range(args.steps)]
        rows.write_text("\n".join(many) + "\n")
        config = folder / "config.yaml"
        config.write_text(yaml.safe_dump({k: v for k, v in values.items() if v is not None}))
        run = folder / "run"
        train(config, env, "--set", f"save_steps={early}", "--set", "max_steps=20")
        kept = shutil.copytree(run / f"checkpoint-{early}", folder / f"checkpoint-{early}")
        shutil.rmtree(run)
        train(config, env)
        far = shutil.copytree(run / f"checkpoint-{late}", folder / f"checkpoint-{late}")
        found: dict[int, list[float]] = {early: [], late: []}
        for _ in range(args.rounds):
            for step, path in ((early, kept), (late, far)):
                shutil.rmtree(run)
                run.mkdir()
                shutil.copytree(path, run / path.name)
                found[step].append(first_step(config, run, env))
    near, deep = (statistics.median(found[step]) for step in (early, late))
    ratio = statistics.median([b / a for a, b in zip(found[early], found[late], strict=True)])
    print(f"first new step after a resume at step {early}: {near:.1f} s")
    print(f"the same at step {late} of {args.steps}: {deep:.1f} s, ratio {ratio:.2f}")


def train(config: Path, env: dict[str, str], *more: str) -> None:
    words = [LEVIATHAN, "train", str(config), *more]
    done = subprocess.run(words, cwd=config.parent, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def first_step(config: Path, run: Path, env: dict[str, str]) -> float:
    """Seconds from the command to its first logged step; then it is killed."""
    words = [LEVIATHAN, "train", str(config), "--resume", "auto", "--yes"]
    began = time.monotonic()
    process = subprocess.Popen(
        words, cwd=config.parent, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while True:
        for metrics in run.glob(".leviathan/sessions/*/metrics.jsonl"):
            if any("loss" in json.loads(line) for line in metrics.read_text().splitlines()):
                seconds = time.monotonic() - began
                subprocess.run([LEVIATHAN, "stop", str(run), "--now"], env=env, capture_output=True)
                process.wait()
                return seconds
        assert process.poll() is None, "it ended before its first step"
        time.sleep(0.02)


if __name__ == "__main__":
    main()
