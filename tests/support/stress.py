"""Random requests from four terminals, with signals beside them, on real trainings.

    python -m support.stress [--rounds 200] [--seed 1]          in tests/

Each round is a training on the real Axolotl that must end paused, its checkpoint intact, and
every request to save answered by a checkpoint. Prints a line for each round that is not as
promised, and a count at the end; exit status 1 if there was one.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import yaml

from leviathan_train.checkpoints import store
from leviathan_train.run.folder import Run
from leviathan_train.run.records import Ending, Phase, RequestKind
from leviathan_train.run.session import Session
from support.demo import ROOT
from support.forked import Forge

TERMINALS = 4


def ask(session: Session, dice: random.Random, saves: list[str]) -> None:
    """One terminal: some random requests, a fraction of a second apart."""
    for _ in range(dice.randrange(1, 4)):
        time.sleep(dice.random() * 0.4)
        if session.end:
            return
        what = dice.choice(["save", "save", "pause", "SIGTERM", "SIGINT"])
        with contextlib.suppress(OSError):
            if what == "save":
                saves.append(session.ask(RequestKind.SAVE, "a terminal"))
            elif what == "pause":
                grace = dice.choice([30.0, 60.0, 300.0])
                session.ask(RequestKind.PAUSE, "a terminal", grace)
            else:
                os.kill(session.processes()["rank0"].pid, getattr(signal, what))


def terminals(run: Run, seed: int, saves: list[str]) -> None:
    """Wait until the training is under way, let the terminals ask, and pause at last."""
    while not (
        (session := run.session())
        and (status := session.status)
        and status.phase is Phase.TRAINING
        and status.step >= 2
    ):
        if session and session.end:
            return
        time.sleep(0.02)
    asking = [
        threading.Thread(target=ask, args=(session, random.Random(f"{seed} {number}"), saves))
        for number in range(TERMINALS)
    ]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    session.ask(RequestKind.PAUSE, "the last terminal", 300.0)


def fault_of(run: Run, code: int, saves: list[str]) -> str:
    """What is not as promised; empty if all is."""
    session = run.session()
    end = session.end if session else None
    if session is None or end is None or end.kind is not Ending.PAUSED:
        return f"exit {code}, {end}"
    intact = [found.name for found in store.scan(run, store.Read.ALL) if found.intact]
    if end.checkpoint not in intact:
        return f"{end.checkpoint} is not among {intact}"
    queue = session.requests
    for name in saves:
        asked, answer = queue.read(name), queue.answer(name)
        # A pause that came first fulfils it: its checkpoint is of that step or a later one.
        if answer is None and asked and asked.at < end.at - 1 and not queue.strongest():
            return f"no answer to a save: {asked}"
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description="Random requests on real trainings.")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    env = os.environ | {
        "AXOLOTL_DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    faults = saved = 0
    with tempfile.TemporaryDirectory() as name, Forge(env) as forge:
        folder = Path(name)
        make = [sys.executable, str(ROOT / "scripts/make_demo.py"), "--out", str(folder / "demo")]
        subprocess.run(make, check=True, env=env, stdout=subprocess.DEVNULL)
        values = yaml.safe_load((ROOT / "configs/demo_cpu.yaml").read_text()) | {
            "base_model": str(folder / "demo/model"),
            "datasets": [
                {"path": str(folder / "demo/data.jsonl"), "ds_type": "json", "type": "alpaca"}
            ],
            "dataset_prepared_path": str(folder / "prepared"),
            "num_epochs": 1000,
            "eval_steps": 25,
            "save_steps": 20,
        }
        for number in range(options.rounds):
            run, saves = Run(folder / f"run{number}"), list[str]()
            config = folder / "config.yaml"
            config.write_text(yaml.safe_dump(values | {"output_dir": str(run.path)}))
            asking = threading.Thread(
                target=terminals, args=(run, options.seed * 1000 + number, saves)
            )
            asking.start()
            done = forge.train(config)
            asking.join()
            saved += len(saves)
            if fault := fault_of(run, done.code, saves):
                faults += 1
                print(f"round {number}: {fault}", flush=True)
            shutil.rmtree(run.path)
    kept = options.rounds - faults
    print(f"{kept} of {options.rounds} rounds as promised, {saved} requests to save among them")
    sys.exit(faults > 0)


if __name__ == "__main__":
    main()
