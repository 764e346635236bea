"""The selftest: N steps straight against N steps that were paused and resumed on the way."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from leviathan_train.checkpoints import store as checkpoints
from leviathan_train.config.load import load_config
from leviathan_train.errors import LeviathanError, Stopped
from leviathan_train.launch import requests
from leviathan_train.launch.command import Typed
from leviathan_train.launch.confirm import Dialog
from leviathan_train.launch.start import Options, Starter
from leviathan_train.run.folder import Run
from leviathan_train.run.index import SELFTEST
from leviathan_train.run.records import Cause, End, Ending, Phase


@dataclass(frozen=True)
class Comparison:
    """The largest differences between the two ways, and what was compared.

    Attributes:
        adapter, optimizer, loss: largest absolute difference of any number in them.
        losses: how many logged losses were compared.
        identical: whether every bit is the same.
        folder: what the selftest leaves.
    """

    adapter: float
    optimizer: float
    loss: float
    losses: int
    identical: bool
    config: str
    steps: int
    folder: str


def run(
    path: Path,
    sets: Sequence[str],
    steps: int,
    accelerate: tuple[str, ...],
    typed: Typed,
    dialog: Dialog,
    *,
    yes: bool = False,
) -> Comparison:
    """Train a config three times for a few steps, in a folder beside its run's.

    Args:
        yes: accept keys that Axolotl does not know.

    Raises:
        UsageError: `train` would refuse the config.
        LeviathanError: a training failed, or another selftest of the run is under way.
        Stopped: a person ended it.
    """
    output_dir = load_config(path, sets).output_dir
    folder = output_dir.parent / SELFTEST / output_dir.name
    if folder.exists() and any(Run(inside).live_session() for inside in folder.iterdir()):
        raise LeviathanError(f"Another selftest is running in {folder}.")
    shutil.rmtree(folder, ignore_errors=True)
    half = steps // 2
    shared = (
        f"max_steps={steps}",
        f"save_steps={half}",
        "save_total_limit=9",
        "logging_steps=1",
        "save_strategy=null",
        "saves_per_epoch=null",
        "load_best_model_at_end=null",
        "early_stopping_patience=null",
        "leviathan_mirror=null",
    )
    options = Options(typed, resume="auto", yes=True, accelerate=accelerate)

    def starter(name: str) -> Starter:
        given = load_config(path, (*sets, *shared, f"output_dir={folder / name}"))
        return Starter(given, options, dialog)

    straight, paused = starter("straight"), starter("paused")
    Starter(straight.config, replace(options, yes=yes), dialog).check()
    dialog.tell(f"In {folder}: {steps} steps straight, then from step {half} with a pause.")
    _train(straight)
    shutil.copytree(
        straight.run.checkpoint(half), paused.run.checkpoint(half), copy_function=shutil.copy2
    )
    _train(paused, Pauser(paused.run, half + max(1, (steps - half) // 3)))
    newest = checkpoints.latest(checkpoints.scan(paused.run))
    if newest is None or newest.step < steps:
        _train(paused)
    found = _compare(straight.run.checkpoint(steps), paused.run.checkpoint(steps))
    return Comparison(**found, config=str(path), steps=steps, folder=str(folder))


@dataclass
class Pauser:
    """Pauses a training once it has done `step` steps.

    Attributes:
        asked: whether the pause was asked for from here.
    """

    run: Run
    step: int
    asked: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        """Watch the training from a thread, which ends with the session."""
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            session = self.run.session()
            if session and session.end:
                return
            status = session.status if session else None
            if status and status.phase is Phase.TRAINING and status.step >= self.step:
                self.asked.set()
                requests.pause(self.run, "leviathan selftest")
                return
            time.sleep(0.02)


def _train(starter: Starter, pauser: Pauser | None = None) -> End:
    plan = starter.plan()
    if plan is None:
        raise LeviathanError(f"{starter.run.path} is already finished.")
    if pauser:
        pauser.start()
    end = starter.train(plan)
    if end.kind is Ending.CRASHED:
        starter.exit_status(end)  # raises
    wanted = end.kind is Ending.PAUSED and pauser is not None and pauser.asked.is_set()
    if end.kind is Ending.FINISHED or wanted:
        return end
    if end.cause in {Cause.PERSON, Cause.SIGNAL}:
        raise Stopped(f"The selftest was stopped: {end.why}.")
    raise LeviathanError(f"The selftest was ended: {end.why}.")


def _compare(one: Path, other: Path) -> dict[str, Any]:
    """What `jobs.compare` prints: the first fields of `Comparison`."""
    done = subprocess.run(
        [sys.executable, "-m", "leviathan_train.jobs.compare", str(one), str(other)],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no output"]
        raise LeviathanError(f"{one} and {other} could not be compared: {last[0]}")
    value: dict[str, Any] = json.loads(done.stdout)
    return value
