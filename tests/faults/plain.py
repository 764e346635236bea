"""The same faults on plain Axolotl, which resumes by its own `auto_resume_from_checkpoints`.

For comparison. The trainings are forked; nothing of the launch is in question here.
"""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import yaml

from faults.bench import environment
from faults.disks import disk
from faults.injected import FIRST, LAST, PARTS, leave_room, make, small_disk
from faults.kills import kill
from faults.results import Try
from support.driver import differences, training_state
from support.forked import Forge

NAME = "plain Axolotl"
LAST_FILE = "trainer_state.json"
"""What a save writes last."""

Moment = tuple[Callable[[Path], bool], float]
"""What a run's folder shows before the blow, and within how many seconds after that it comes."""


class Plain:
    """A run of plain Axolotl that was never disturbed, and copies of it to disturb."""

    def __init__(self, folder: Path, forge: Forge) -> None:
        self._forge = forge
        self._bench = make(folder / "bench-injected", forge)
        self._place = folder / "plain"
        shutil.rmtree(self._place, ignore_errors=True)
        done = forge.must_train(self._copy(self._place / "straight"))
        self._wanted = _state(done.checkpoint)

    def kills(self, number: int) -> list[Try]:
        """Kill the trainer inside a save, and between two, each so many times."""
        found = []
        for what, moment in (("in a save", IN_A_SAVE), ("between two saves", BETWEEN_TWO)):
            for seed in range(number):
                config = self._copy(self._place / f"run-{seed}")
                inside = self._strike(config, seed, moment)
                fault = f"{NAME}, kill -9: trainer {what}"
                found.append(self._resumed(Try(fault, inside=inside, seed=f"{seed}"), config))
                shutil.rmtree(config.parent)
        return found

    def power_cuts(self, kind: str, folder: Path, number: int) -> list[Try]:
        """Cut the power inside a save, and right after one, each so many times."""
        found = []
        with disk(kind, folder / f"plain-{kind}") as made:
            for what, moment in (("in a save", IN_A_SAVE), ("after a save", AFTER_A_SAVE)):
                for seed in range(number):
                    config = self._copy(self._place / f"cut-{what}-{seed}", made.path)
                    inside = self._strike(config, seed, moment, made.cut)
                    made.restore()
                    fault = f"{NAME}, power cut on {kind}: {what}"
                    found.append(self._resumed(Try(fault, inside=inside, seed=f"{seed}"), config))
                    # What the cut left may not be deletable.
                    shutil.rmtree(made.path / config.parent.name, ignore_errors=True)
        return found

    def full_disks(self) -> list[Try]:
        """Leave room for a part of the next save alone; then there is room again."""
        found = []
        for part in PARTS:
            with small_disk(self._bench, self._place / "small") as small:
                config = self._copy(self._place / f"full-{part}", small)
                ballast = leave_room(self._bench, part, small)
                self._forge.train(config)
                ballast.unlink()
                fault = f"{NAME}, full disk"
                found.append(self._resumed(Try(fault, inside=True, seed=f"{part:.2f}"), config))
        return found

    def _copy(self, folder: Path, disk: Path | None = None) -> Path:
        """A config without the plugin, for a run at the first checkpoint.

        Args:
            disk: where the run is; in `folder`, unless given.
        """
        folder.mkdir(parents=True, exist_ok=True)
        run = disk / folder.name if disk else folder / "run"
        first = run / f"checkpoint-{FIRST}"
        shutil.copytree(self._bench.folder / "first" / first.name, first)
        (first / "leviathan.json").unlink()
        values: dict[str, Any] = yaml.safe_load(self._bench.config.read_text())
        ours = ("plugins", *(key for key in values if key.startswith("leviathan")))
        values = {key: value for key, value in values.items() if key not in ours}
        values |= {"output_dir": str(run), "auto_resume_from_checkpoints": True}
        config = folder / "config.yaml"
        config.write_text(yaml.safe_dump(values))
        return config

    def _strike(
        self, config: Path, seed: int, moment: Moment, also: Callable[[], None] | None = None
    ) -> bool:
        """Train until a moment comes, then kill the trainer; whether that was in a save."""
        run = Path(yaml.safe_load(config.read_text())["output_dir"])
        is_here, within = moment
        trainer = threading.Thread(target=self._forge.train, args=(config,))
        trainer.start()
        inside = False
        while trainer.is_alive():
            if is_here(run):
                time.sleep(random.Random(seed).uniform(0.0, within))
                inside = _is_saving(run)
                if also:
                    also()
                kill(child.pid for child in psutil.Process(self._forge.pid).children())
                break
            time.sleep(0.001)
        trainer.join()
        return inside

    def _resumed(self, found: Try, config: Path) -> Try:
        done = self._forge.train(config)
        if done.code:
            return replace(found, problem=f"the resume failed: {done.error}")
        if (last := done.checkpoint.name) != f"checkpoint-{LAST}":
            return replace(found, problem=f"ended at {last}")
        if wrong := differences(self._wanted, _state(done.checkpoint)):
            return replace(found, silent=1, wrong=1, problem=f"differs: {wrong[0]}")
        return found


def _is_saving(run: Path) -> bool:
    return any(not (path / LAST_FILE).exists() for path in run.glob("checkpoint-*"))


def _has_saved(run: Path) -> bool:
    return len(list(run.glob("checkpoint-*"))) > 1 and not _is_saving(run)


IN_A_SAVE: Moment = (_is_saving, 0.06)
AFTER_A_SAVE: Moment = (_has_saved, 0.005)
BETWEEN_TWO: Moment = (_has_saved, 0.08)


def tries(folder: Path, number: int) -> list[Try]:
    """Every fault, so many times."""
    with Forge(environment()) as forge:
        plain = Plain(folder, forge)
        return [
            *plain.kills(number),
            *plain.power_cuts("ext4", folder, number),
            *plain.full_disks(),
        ]


def _state(checkpoint: Path) -> dict[str, Any]:
    """What training comes to; the log differs, since plain Axolotl evaluates at each resume."""
    found = training_state(checkpoint)
    return {key: found[key] for key in ("adapter", "optimizer", "scheduler", "rng", "step")}
