"""The same kills on plain Axolotl, which resumes by its own `auto_resume_from_checkpoints`.

For comparison. The trainings are forked; nothing of the launch is in question here.
"""

from __future__ import annotations

import random
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import yaml

from faults.bench import environment
from faults.injected import FIRST, LAST, make
from faults.kills import kill
from faults.results import Try
from support.driver import differences, training_state
from support.forked import Forge, Outcome

NAME = "plain Axolotl"
LAST_FILE = "trainer_state.json"
"""What a save writes last."""


def kills(folder: Path, number: int) -> list[Try]:
    """Kill the trainer of plain Axolotl inside a save, again and again."""
    with Forge(environment()) as forge:
        bench = make(folder / "bench-injected", forge)
        place = folder / "plain"
        shutil.rmtree(place, ignore_errors=True)
        straight = place / "straight"
        done = forge.must_train(_config(bench.config, bench.folder, straight))
        wanted = _state(done.checkpoint)
        found = []
        for seed in range(number):
            run = place / f"run-{seed}"
            found.append(_try(forge, _config(bench.config, bench.folder, run), wanted, seed))
            shutil.rmtree(run)
        return found


def _state(checkpoint: Path) -> dict[str, Any]:
    """What training comes to; the log differs, since plain Axolotl evaluates at each resume."""
    found = training_state(checkpoint)
    return {key: found[key] for key in ("adapter", "optimizer", "scheduler", "rng", "step")}


def _config(like: Path, bench: Path, folder: Path) -> Path:
    """A config without the plugin, for a run at the first checkpoint."""
    first = f"checkpoint-{FIRST}"
    shutil.copytree(bench / "first" / first, folder / "run" / first)
    (folder / "run" / first / "leviathan.json").unlink()
    values = yaml.safe_load(like.read_text()) | {
        "output_dir": str(folder / "run"),
        "auto_resume_from_checkpoints": True,
    }
    values = {k: v for k, v in values.items() if k != "plugins" and not k.startswith("leviathan")}
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(values))
    return config


def _try(forge: Forge, config: Path, wanted: object, seed: int) -> Try:
    dice = random.Random(seed)
    run = config.parent / "run"
    done: list[Outcome] = []
    trainer = threading.Thread(target=lambda: done.append(forge.train(config)))
    trainer.start()
    inside = False
    while trainer.is_alive():
        if any(not (path / LAST_FILE).exists() for path in run.glob("checkpoint-*")):
            time.sleep(dice.uniform(0.0, 0.06))
            inside = any(not (path / LAST_FILE).exists() for path in run.glob("checkpoint-*"))
            kill(child.pid for child in psutil.Process(forge.pid).children())
            break
        time.sleep(0.001)
    trainer.join()
    found = Try(f"{NAME}, kill -9: trainer in a save", inside=inside, seed=f"plain {seed}")
    done = [forge.train(config)]
    if done[0].code:
        return replace(found, problem=f"the resume failed: {done[0].error}")
    if (last := done[0].checkpoint.name) != f"checkpoint-{LAST}":
        return replace(found, problem=f"ended at {last}")
    if wrong := differences(wanted, _state(done[0].checkpoint)):
        return replace(found, silent=1, wrong=1, problem=f"differs: {wrong[0]}")
    return found
