"""Whether a resume deep in an epoch takes longer than one at its beginning.

    python bench/resume.py [--rounds N] [--steps N]

One training of a tiny model over one epoch of so many steps leaves a checkpoint at its beginning
and one near its end. The seconds from the command to the first new step are told for both, by
turns, and their ratio.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from starts import first_step, train  # noqa: E402

from faults.bench import environment, settings  # noqa: E402


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
                found[step].append(first_step(config, run, env, "--resume", "auto", "--yes"))
    near, deep = (statistics.median(found[step]) for step in (early, late))
    ratio = statistics.median([b / a for a, b in zip(found[early], found[late], strict=True)])
    print(f"first new step after a resume at step {early}: {near:.1f} s")
    print(f"the same at step {late} of {args.steps}: {deep:.1f} s, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
