"""`leviathan selftest`: does a pause leave a trace, with this config on this machine?"""

from __future__ import annotations

import json as jsons
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import click

from leviathan_train.checkpoints import store as checkpoints
from leviathan_train.cli import EXIT_STATUS
from leviathan_train.cli.options import accelerate_arguments, as_json, config_argument, sets_option
from leviathan_train.cli.train import Starter
from leviathan_train.config.load import load_config
from leviathan_train.errors import LeviathanError, UsageError
from leviathan_train.launch import outcome as ending
from leviathan_train.launch import requests as control
from leviathan_train.run.folder import Run
from leviathan_train.run.records import PAUSE_GRACE, End, Ending
from leviathan_train.ui import text as render


@click.command(short_help="Find out whether a pause leaves a trace here.", epilog=EXIT_STATUS)
@config_argument
@click.option(
    "--steps",
    type=click.IntRange(min=8),
    default=20,
    show_default=True,
    metavar="N",
    help="How many steps to compare.",
)
@sets_option
@as_json
@accelerate_arguments
def selftest(
    config_path: Path,
    steps: int,
    sets: tuple[str, ...],
    json: bool,
    accelerate_args: tuple[str, ...],
) -> int:
    """Compare N steps straight with N steps that were paused and resumed on the way.

    Trains CONFIG three times for a few steps, in a folder of its own; the run itself is
    left alone. Exit status 0 if every bit is equal, 1 if not.

    Example:  leviathan selftest configs/demo_cpu.yaml --steps 20
    """
    base = load_config(config_path, sets)
    folder = base.output_dir.parent / ".selftest" / base.output_dir.name
    if folder.exists() and any(Run(path).live_session() for path in folder.iterdir()):
        raise LeviathanError(f"A selftest is going on in {folder}.")
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
    )

    def starter(name: str) -> Starter:
        given = (*sets, *shared, f"output_dir={folder / name}")
        cfg = load_config(config_path, given)
        made = Starter(cfg, PAUSE_GRACE, accelerate_args, yes=True, quiet=json)
        made.check()
        return made

    straight, paused = starter("straight"), starter("paused")
    if not json:
        print(f"In {folder}: {steps} steps straight, then from step {half} with a pause.")
    _train(straight)
    shutil.copytree(
        straight.run.checkpoint(half), paused.run.checkpoint(half), copy_function=shutil.copy2
    )
    _train(paused, pause_after=half + max(1, (steps - half) // 3))
    newest = checkpoints.latest(checkpoints.scan(paused.run))
    if newest is None or newest.step < steps:
        _train(paused)
    value = _compare(straight.run.checkpoint(steps), paused.run.checkpoint(steps))
    value |= {"config": str(config_path), "steps": steps, "folder": str(folder)}
    if json:
        render.document(value)
    else:
        render.selftest(value)
    return 0 if value["identical"] else 1


def _train(starter: Starter, pause_after: int | None = None) -> End:
    plan = starter.plan("auto")
    if plan is None:
        raise UsageError(f"{starter.run.path} is finished already.")
    if pause_after is not None:
        threading.Thread(target=_pause, args=(starter.run, pause_after), daemon=True).start()
    end = starter.train(plan)
    if end.kind is Ending.CRASHED:
        raise ending.failure(starter.run, end)
    if end.kind not in {Ending.FINISHED, Ending.PAUSED}:
        raise LeviathanError(f"The selftest was ended: {end.why}.")
    return end


def _pause(run: Run, step: int) -> None:
    """Pause a training once it has done `step` steps."""
    while True:
        session = run.session()
        if session and session.end:
            return
        status = session.status if session else None
        if status and status.phase == "training" and status.step >= step:
            control.pause(run, "leviathan selftest")
            return
        time.sleep(0.02)


def _compare(one: Path, other: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "leviathan_train.jobs.compare", str(one), str(other)],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no output"]
        raise LeviathanError(f"{one} and {other} could not be compared: {last[0]}")
    value: dict[str, Any] = jsons.loads(done.stdout)
    return value
