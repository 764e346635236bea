"""How often the seam's verdict is right: honest resumes and broken ones, on the real Axolotl.

    python bench/seam.py [--seed N] [--each N]

Trains a small model twice (a log line each step, each fifth step), goes on from random
checkpoints, honestly and with one of five faults made in the checkpoint, the config or the
trainer, and prints how many were judged rightly. Some ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support.forked import Forge, Outcome  # noqa: E402

STEPS = {1: 60, 5: 120}
"""Length of the training by `logging_steps`."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--each", type=int, default=4, help="resumes for each fault")
    parser.add_argument("--keep", type=Path, help="write what the judge saw to this file")
    options = parser.parse_args()
    dice = random.Random(options.seed)
    judged: Counter[tuple[str, str]] = Counter()
    seen = []
    with tempfile.TemporaryDirectory() as name, Forge(environment()) as forge:
        bench = Bench(forge, Path(name))
        cases = [
            *["honest"] * 2 * options.each * len(FAULTS),
            *(fault for fault in FAULTS for _ in range(options.each)),
        ]
        for number, case in enumerate(cases):
            logging_steps = (1, 5)[number % 2]
            verdict, judge = bench.resume(case, logging_steps, dice)
            judged[case, verdict["word"]] += 1
            seen.append({"case": case, "logging_steps": logging_steps, **judge})
            print(f"{case:<22} logging_steps {logging_steps}: {verdict['word']}:", end=" ")
            print(verdict["cause"], flush=True)
    if options.keep:
        options.keep.write_text(json.dumps(seen))
    print("\n                        continuous  broken  too early")
    for case in dict.fromkeys(cases):
        counts = [judged[case, word] for word in ("continuous", "broken", "too early")]
        print(f"{case:<22} {counts[0]:>11} {counts[1]:>7} {counts[2]:>10}")


def environment() -> dict[str, str]:
    return os.environ | {
        "AXOLOTL_DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }


class Bench:
    """Two trainings and the resumes from their checkpoints."""

    def __init__(self, forge: Forge, folder: Path) -> None:
        self.forge = forge
        self.folder = folder
        self.number = 0
        script = ROOT / "scripts" / "make_demo.py"
        subprocess.run(
            [sys.executable, script, "--out", folder, "--rows", "640"],
            check=True,
            env=environment(),
            stdout=subprocess.DEVNULL,
        )
        self.origins = {every: self.train(logging_steps=every) for every in STEPS}

    def config(self, logging_steps: int, **settings: Any) -> Path:
        self.number += 1
        folder = self.folder / f"run-{self.number}"
        folder.mkdir()
        values = yaml.safe_load((ROOT / "configs" / "demo_cpu.yaml").read_text())
        values |= {
            "base_model": str(self.folder / "model"),
            "datasets": [
                {"path": str(self.folder / "data.jsonl"), "ds_type": "json", "type": "alpaca"}
            ],
            "dataset_prepared_path": str(self.folder / "prepared"),
            "output_dir": str(folder / "run"),
            "max_steps": STEPS[logging_steps],
            "num_epochs": 100,
            "logging_steps": logging_steps,
            "save_steps": 3,
            "save_total_limit": 1000,
            "eval_steps": 1000,
        }
        path = folder / "config.yaml"
        path.write_text(yaml.safe_dump(values | settings))
        return path

    def train(self, logging_steps: int) -> Outcome:
        return self.forge.must_train(self.config(logging_steps))

    def resume(
        self, case: str, logging_steps: int, dice: random.Random
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Go on from a random checkpoint, with the fault that `case` names.

        Returns:
            The verdict, and what the judge had seen.
        """
        origin, last = self.origins[logging_steps], STEPS[logging_steps]
        steps = range(4 * logging_steps, last - 4 * logging_steps)
        step = dice.choice([at for at in steps if (origin.run / f"checkpoint-{at}").is_dir()])
        checkpoint = origin.run / f"checkpoint-{step}"
        path = self.config(logging_steps, resume_from_checkpoint=str(checkpoint))
        settings: dict[str, Any] = {}
        patch = "watch_the_judge"
        if case in IN_CHECKPOINT:
            copy = path.parent / "broken" / checkpoint.name
            shutil.copytree(checkpoint, copy)
            IN_CHECKPOINT[case](copy, origin.run, dice)
            seal_again(copy)
            settings["resume_from_checkpoint"] = str(copy)
        elif case == "data order lost":
            settings["seed"] = dice.randrange(1000)
        elif case == "wrong rate":
            patch = dice.choice(("rate_too_high", "rate_too_low"))
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | settings))
        done = self.forge.must_train(path, patch=f"{__file__}:{patch}")
        judge = json.loads((path.parent / "judge.json").read_text())
        return done.records("seam.json")[-1], judge


# -- faults ----------------------------------------------------------------------------


def lose_optimizer(checkpoint: Path, run: Path, dice: random.Random) -> None:
    """Empty its state, or set every moment to 0 and keep the count of updates."""
    import torch

    state = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    if dice.random() < 0.5:
        state["state"] = {}
    for entry in state["state"].values():
        entry["exp_avg"].zero_()
        entry["exp_avg_sq"].zero_()
    torch.save(state, checkpoint / "optimizer.pt")


def lose_scheduler(checkpoint: Path, run: Path, dice: random.Random) -> None:
    """Let it begin anew."""
    import torch

    state = torch.load(checkpoint / "scheduler.pt", weights_only=True)
    torch.save(state | {"last_epoch": 0, "_step_count": 1}, checkpoint / "scheduler.pt")


def swap_adapter(checkpoint: Path, run: Path, dice: random.Random) -> None:
    """Take the adapter of another checkpoint of the run."""
    others = [
        path
        for path in run.glob("checkpoint-*/adapter_model.safetensors")
        if path.parent.name not in {checkpoint.name, "checkpoint-final"}
    ]
    shutil.copy(dice.choice(sorted(others)), checkpoint)


IN_CHECKPOINT: dict[str, Callable[[Path, Path, random.Random], None]] = {
    "optimizer lost": lose_optimizer,
    "scheduler lost": lose_scheduler,
    "another adapter": swap_adapter,
}
FAULTS = (*IN_CHECKPOINT, "data order lost", "wrong rate")


def seal_again(checkpoint: Path) -> None:
    from leviathan_train.checkpoints import store as checkpoints
    from leviathan_train.checkpoints.reseal import reseal
    from leviathan_train.run.folder import Run

    run = Run(checkpoint.parent)
    (found,) = checkpoints.scan(run)
    reseal(run, found)


# -- in the trainer --------------------------------------------------------------------


def watch_the_judge() -> None:
    """End the training at the verdict, and write down what it was made from."""
    from leviathan_train.trainer.callbacks.report import ReportCallback
    from leviathan_train.trainer.process import leave_process

    original = ReportCallback._judge

    def judge(self: Any, seam: Any) -> None:
        original(self, seam)
        state = self.loop.trainer.state
        if self.loop.seam is None or state.global_step >= state.max_steps - 5:
            Path("judge.json").write_text(json.dumps(asdict(seam)))
            leave_process()

    ReportCallback._judge = judge


def rate_too_high() -> None:
    _wrong_rate(10.0)


def rate_too_low() -> None:
    _wrong_rate(0.1)


def _wrong_rate(factor: float) -> None:
    from leviathan_train.trainer import optimizer_settings

    def apply_settings(trainer: Any, *rest: Any) -> None:
        scheduler = trainer.lr_scheduler
        scheduler.base_lrs = [rate * factor for rate in scheduler.base_lrs]
        for group in trainer.optimizer.param_groups:
            group["lr"] *= factor

    optimizer_settings.apply_settings = apply_settings
    watch_the_judge()


if __name__ == "__main__":
    main()
