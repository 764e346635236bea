"""Power cuts: during and right after a save, in retention, and while a merge is published."""

from __future__ import annotations

import json
import queue
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from faults.bench import Bench, last_logged
from faults.disks import Disk, disk
from faults.kills import Chain, kill
from faults.results import Try
from faults.writer import SAVE_STEPS, content, publishing
from leviathan_train.checkpoints import store
from leviathan_train.checkpoints.seal import digest
from leviathan_train.merge.publish import RECORD
from leviathan_train.run.folder import Run
from support.demo import ROOT
from support.driver import Started

INSTANTS = {
    "in a save": ("begin", 0.06),
    "after a save": ("sealed", 0.005),
    "in retention": ("delete", 0.02),
    "publishing a merge": ("begin", 0.02),
}
"""What the writer tells before, and within how many seconds after that the power is cut."""


CUTS = 6
"""Power cuts of one real training."""


class Writer:
    """`faults.writer` at work, and what it has told."""

    def __init__(
        self,
        what: str,
        folder: Path,
        prepared: Path,
        times: int = 1_000_000,
        before: Sequence[str] = (),
    ) -> None:
        command = (sys.executable, "-m", "faults.writer", what)
        self._process = subprocess.Popen(
            [*before, *command, str(folder), str(prepared), str(times)],
            cwd=ROOT / "tests",
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # it dies of the disk that is gone
            text=True,
        )
        self.told: list[tuple[str, int]] = []
        self._new: queue.Queue[tuple[str, int] | None] = queue.Queue()
        threading.Thread(target=self._hear, daemon=True).start()

    def _hear(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            match line.split():
                case [word, number] if line.endswith("\n"):
                    self.told.append((word, int(number)))
                    self._new.put(self.told[-1])
                case _:
                    continue  # cut off by a write that failed
        self._new.put(None)

    def wait(self, word: str, times: int) -> None:
        """Wait until it has told a word so often."""
        while times:
            told = self._new.get(timeout=60.0)
            assert told, f"the writer ended: {self.told}"
            times -= told[0] == word

    def kill(self) -> None:
        self._process.kill()
        self.finish()

    def finish(self) -> int:
        """Wait until it has ended; its exit status."""
        self._process.wait(timeout=60.0)
        while self._new.get(timeout=10.0):
            pass
        assert self._process.stdout
        self._process.stdout.close()
        return self._process.returncode

    def last(self, word: str) -> int:
        """The last number told with a word; 0 if there is none."""
        return max((number for told, number in self.told if told == word), default=0)


def cuts(kind: str, seed: int, number: int, folder: Path, prepared: Path) -> list[Try]:
    """Cut the power of one disk again and again, each time on a run and a model of its own."""
    dice = random.Random(f"{kind} {seed}")
    with disk(kind, folder / f"power-{kind}-{seed}") as made:
        return [
            cut(made, list(INSTANTS)[one % len(INSTANTS)], f"{seed}.{one}", dice, prepared)
            for one in range(number)
        ]


def cut(made: Disk, instant: str, seed: str, dice: random.Random, prepared: Path) -> Try:
    """Cut the power of a disk at one instant, and judge what is left."""
    word, within = INSTANTS[instant]
    merging = instant == "publishing a merge"
    place = made.path / seed
    writer = Writer("models" if merging else "saves", place, prepared)
    try:
        writer.wait(word, dice.randint(1, 3))
        time.sleep(dice.uniform(0.0, within))
        told = list(writer.told)
        made.cut()
    finally:
        writer.kill()
    made.restore()
    # What was promised counts up to the cut, what was to be deleted counts whenever it was told.
    writer.told = told + [one for one in writer.told[len(told) :] if one[0] == "delete"]
    fault = f"power cut on {made.kind}: {instant}"
    if merging:
        problem = model_problem(place, writer, prepared)
        lost, wrong = 0, int(bool(problem))
    else:
        lost, wrong, problem = judge(Run(place), writer, prepared)
    inside = not merging and writer.last("begin") > writer.last("sealed")
    shutil.rmtree(place, ignore_errors=True)
    return Try(fault, inside, lost, 0, wrong, 0, problem, seed)


def judge(run: Run, writer: Writer, prepared: Path) -> tuple[int, int, str]:
    """Steps lost, checkpoints that are wrong, and what is not as promised."""
    found = store.scan(run, store.Read.ALL)
    intact = {item.step: item for item in found if item.intact}
    wrong = [
        item.name
        for item in intact.values()
        if any((item.path / n).read_bytes() != d for n, d in content(prepared, item.step).items())
    ]
    sealed = writer.last("sealed")
    newest = max(intact, default=0)
    if unsealed := [item.name for item in intact.values() if item.state == "unsealed"]:
        wrong += unsealed
    gone = {number for told, number in writer.told if told == "delete"}
    promised = {number for told, number in writer.told if told == "sealed"} - gone
    problem = ""
    if lost := sorted(promised - set(intact)):
        reasons = [item.reason for item in found if item.step in lost]
        problem = f"sealed, and lost with the power: {lost} {reasons}"
    elif wrong:
        problem = f"intact, and wrong: {wrong}"
    reached = max(sealed, writer.last("begin"))
    if not problem and reached - newest > SAVE_STEPS:
        problem = f"from {reached} back to {newest}"
    return max(0, reached - newest), len(wrong), problem


def model_problem(goal: Path, writer: Writer, prepared: Path) -> str:
    """What is wrong with the model that bears the name; empty if nothing is."""
    with publishing(goal):
        pass
    least = writer.last("published")
    if not goal.exists():
        return f"model {least} was published, and is gone" if least else ""
    try:
        record = json.loads((goal / RECORD).read_text())
    except (OSError, ValueError) as error:
        return f"{RECORD}: {error}"
    if record["number"] < least:
        return f"model {record['number']} instead of {least}"
    for name, data in content(prepared, record["number"]).items():
        if (goal / name).read_bytes() != data or digest(goal / name) != record["files"][name][
            "sha256"
        ]:
            return f"{name} is not as it was merged"
    return ""


class PowerCuts(Chain):
    """A real training whose run lies on a disk that loses its power again and again."""

    whom = ("training",)

    def __init__(self, bench: Bench, seed: int, folder: Path, kind: str) -> None:
        super().__init__(bench, seed, folder, kills=CUTS)
        self.what = f"power cut on {kind}"
        self._dice = random.Random(f"{kind} {seed}")
        self._folder = folder / f"training-{kind}-{seed}"
        self._kind = kind

    def tries(self) -> list[Try]:
        with disk(self._kind, self._folder) as made:
            self._disk = made
            self._run = made.path / "run"
            return super().tries()

    def _victims(self, started: Started, whom: str) -> tuple[str, list[int]]:
        return whom, super()._victims(started, "all at once")[1]

    def _strike(self, started: Started, victims: list[int]) -> tuple[bool, int]:
        session = started.session()
        reached = last_logged(session) if session else 0
        saving = self._is_saving()
        self._disk.cut()
        kill(victims)
        return saving, reached

    def _settle(self, started: Started, whom: str) -> str:
        started.process.communicate()
        self._left()
        self._disk.restore()
        return ""
