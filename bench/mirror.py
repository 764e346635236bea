"""What copies elsewhere cost a training, and how long until the next machine goes on.

    python bench/mirror.py [--rounds N] [--steps N]

Trains a tiny model with large adapters on the CPU, by turns without a mirror, with one on the same
disk, and with one on an S3 server on the same cores, and tells the ratios of the seconds a step.
Then the run's folder is deleted, and the same command is timed from its start to the first
new step, beside the same start on a machine that still has the folder.
"""

from __future__ import annotations

import argparse
import itertools
import json
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
from support.stores import s3  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, s3(Path(name) / "s3") as server:
        folder = Path(name)
        env = environment() | dict(server.env)
        values = settings(folder, env) | {
            "lora_r": 256,  # checkpoints of some 25 MB
            "max_steps": args.steps,
            "save_steps": 5,
            "save_total_limit": 3,
            "eval_steps": args.steps,
        }
        config = folder / "config.yaml"
        config.write_text(yaml.safe_dump(values))
        places = {"none": None, "disk": str(folder / "copies"), "s3": server.url}
        found: dict[str, list[float]] = {kind: [] for kind in places}
        for number in range(args.rounds):
            for kind, place in places.items():
                run = folder / f"{kind}{number}"
                train(config, env, *to_run(run, place))
                found[kind].append(seconds_a_step(run))
        for kind in ("disk", "s3"):
            ratios = [a / b for a, b in zip(found[kind], found["none"], strict=True)]
            median = statistics.median(found[kind])
            print(f"mirror on {kind}: {median:.3f} s a step, ratio {statistics.median(ratios):.2f}")
        print(f"no mirror: {statistics.median(found['none']):.3f} s a step")
        elsewhere(config, folder / "s30", env, server.url, args.steps)


def to_run(run: Path, place: str | None) -> tuple[str, ...]:
    """The options that name a run's folder and its mirror."""
    return ("--set", f"output_dir={run}", *(("--mirror", place) if place else ()))


def seconds_a_step(run: Path) -> float:
    """The median over the steps of a run's only session; its first ones are left out."""
    (session,) = (run / ".leviathan/sessions").iterdir()
    lines = [json.loads(line) for line in (session / "metrics.jsonl").read_text().splitlines()]
    times = [(line["step"], line["at"]) for line in lines if "loss" in line][5:]
    spans = [(b_at - a_at) / (b - a) for (a, a_at), (b, b_at) in itertools.pairwise(times)]
    return statistics.median(spans)


def elsewhere(config: Path, run: Path, env: dict[str, str], place: str, steps: int) -> None:
    """Time the way from a start to the first new step, where the folder is and where it is not."""
    more = ("--set", f"max_steps={2 * steps}", "--resume", "auto", "--yes")
    kept = run.with_name("kept")
    shutil.copytree(run, kept)
    here = first_step(config, run, env, *to_run(run, None), *more)
    shutil.rmtree(run)
    shutil.copytree(kept, run)
    again = first_step(config, run, env, *to_run(run, None), *more)
    shutil.rmtree(run)
    gone = first_step(config, run, env, *to_run(run, place), *more)
    print(f"first new step: {min(here, again):.1f} s with the folder, {gone:.1f} s without it")


if __name__ == "__main__":
    main()
