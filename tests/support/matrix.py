"""Every way to ask for a pause, in every phase of a training, on the real Axolotl.

    python -m support.matrix [--phases middle,saving] [--ways ctrl-c,pause]

For each cell: the exit status, what is on disk, and whether a resume ends bit-identical to a
run that was never stopped. Prints a table; exit status 1 if a cell is not as promised.
`test_matrix.py` holds the part that every test run has time for.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from leviathan_train.checkpoints import store as checkpoints
from leviathan_train.run.folder import Run
from leviathan_train.run.records import END_OF_TIME, Cause, RequestKind
from leviathan_train.run.session import Session
from support.driver import (
    LEVIATHAN,
    Started,
    Status,
    axolotls_of,
    differences,
    leviathan,
    pause_at,
    processes_of,
    start,
    train,
    training_state,
)

FIRST, LAST = 3, 16
ROOT = Path(__file__).resolve().parents[2]
PHASES: dict[str, Callable[[Status], bool]] = {
    "tokenising": lambda s: s.get("phase") == "data",
    "loading": lambda s: s.get("phase") == "model",
    "first step": lambda s: s.get("phase") == "training",
    "middle": lambda s: s.get("phase") == "training" and s["step"] >= 6,
    "evaluating": lambda s: s.get("phase") == "evaluating" and s["step"] >= 8,
    "saving": lambda s: s.get("phase") == "saving" and s["step"] >= 5,
    "last step": lambda s: s.get("step", 0) >= LAST - 1,
}
WAYS = ["ctrl-c", "sigterm cli", "sigterm launcher", "sigterm rank", "sigterm all", "pause"]
WAYS += ["until", "sighup"]


@dataclass(frozen=True)
class Cell:
    """What one way came to in one phase."""

    phase: str
    way: str
    status: int
    steps: list[int]
    fault: str

    def __str__(self) -> str:
        seen = f"exit {self.status:>3}, checkpoints {self.steps}"
        return f"{self.phase:<11} {self.way:<17} {seen:<40} {self.fault or 'as promised'}"


@dataclass(frozen=True)
class Bench:
    """A run that was trained straight, and the checkpoint that all cells start from."""

    folder: Path
    config: Path
    env: dict[str, str]

    def cell(self, phase: str, way: str) -> Cell:
        run = self.folder / f"{phase}-{way}".replace(" ", "_")
        shutil.copytree(self.folder / "first", run)
        to_run = ["--set", f"output_dir={run}"]
        if phase == "tokenising":
            to_run += ["--set", f"dataset_prepared_path={run}-prepared"]
        extra: list[str] = []
        if way == "until":
            # The deadline is the trainer's own; it is moved to now once the phase is reached.
            extra = ["--for", "10h"]
        started = start(self.config, *to_run, *extra, env=self.env, run=run)
        started.wait(PHASES[phase])
        self.ask(started, way)
        status, output = started.finish()
        left = [
            item.step for item in checkpoints.scan(Run(run), checkpoints.Read.ALL) if item.intact
        ]
        fault = self.judge(phase, way, status, output, run)
        if not fault:
            if status == 75:
                train(self.config, *to_run, env=self.env, run=run)
            found = differences(
                training_state(self.folder / f"run/checkpoint-{LAST}"),
                training_state(run / f"checkpoint-{LAST}"),
            )
            fault = f"not bit-identical: {found[0]}" if found else ""
        return Cell(phase, way, status, left, fault)

    def ask(self, started: Started, way: str) -> None:
        """Ask for a pause, or close the terminal."""
        if way == "ctrl-c":
            started.signal(signal.SIGINT)
        elif way == "sighup":
            started.signal(signal.SIGHUP)
        elif way == "pause":
            leviathan("pause", started.run, cwd=self.folder, env=self.env)
        elif way == "until":
            session = started.session()
            assert session
            Session(session).ask(RequestKind.PAUSE, END_OF_TIME, 300, Cause.DEADLINE)
        else:
            if way == "sigterm cli":
                started.signal(signal.SIGTERM)
            for pid in self.chosen(started, way):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)

    def chosen(self, started: Started, way: str) -> list[int]:
        """Whom a way of SIGTERM reaches besides the command line."""
        if way == "sigterm all":  # as `pkill -f axolotl` does: data workers, too
            return axolotls_of(started.run)
        roles = {"sigterm launcher": "launcher", "sigterm rank": "rank0"}
        return [started.pid(roles[way])] if way in roles else []

    def judge(self, phase: str, way: str, status: int, output: str, run: Path) -> str:
        """What is not as promised; empty if all is."""
        if "Traceback" in output:
            return "a traceback on the screen"
        if processes_of(run):
            return "a process is left"
        finished = (run / "checkpoint-final").exists()
        if way == "sighup":
            return "" if status == 0 and finished else "a closed terminal stopped it"
        if phase == "last step" and status == 0:
            return "" if finished else "exit 0 but not finished"
        if status != 75:
            return "not paused"
        return "a paused run looks finished" if finished else ""


def prepare(folder: Path) -> Bench:
    """Train straight to the end from a first checkpoint."""
    env = dict(os.environ) | {
        "AXOLOTL_DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    demo = [sys.executable, str(ROOT / "scripts/make_demo.py"), "--out", str(folder / "demo")]
    subprocess.run(demo, check=True, env=env, stdout=subprocess.DEVNULL)
    values = yaml.safe_load((ROOT / "configs/demo_cpu.yaml").read_text()) | {
        "base_model": str(folder / "demo/model"),
        "datasets": [
            {"path": str(folder / "demo/data.jsonl"), "ds_type": "json", "type": "alpaca"}
        ],
        "dataset_prepared_path": str(folder / "prepared"),
        "output_dir": str(folder / "run"),
        "max_steps": LAST,
        "num_epochs": 1,
        "logging_steps": 3,
        "eval_steps": 4,
        "eval_batch_size": 1,
        "save_steps": 5,
        "save_total_limit": 9,
    }
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(values))
    pause_at(config, FIRST, env=env)
    shutil.copytree(folder / "run", folder / "first")
    train(config, env=env)
    return Bench(folder, config, env)


def main() -> None:
    parser = argparse.ArgumentParser(description="Ask for a pause in every way, in every phase.")
    parser.add_argument("--phases", default=",".join(PHASES))
    parser.add_argument("--ways", default=",".join(WAYS))
    options = parser.parse_args()
    assert Path(LEVIATHAN).exists()
    cells = []
    with tempfile.TemporaryDirectory() as name:
        bench = prepare(Path(name))
        for phase in options.phases.split(","):
            for way in options.ways.split(","):
                try:
                    cells.append(bench.cell(phase, way))
                except AssertionError as error:
                    cells.append(Cell(phase, way, -1, [], f"{error}"[:200]))
                print(cells[-1], flush=True)
    faults = sum(bool(cell.fault) for cell in cells)
    print(f"{len(cells) - faults} of {len(cells)} cells as promised")
    sys.exit(faults > 0)


if __name__ == "__main__":
    main()
