"""kill -9 of one process of a training, or of all, again and again until it ends.

A chain is one training that is killed several times, each time followed by one `leviathan train
CONFIG --resume auto`, which is what the next kill hits. After each kill the newest intact
checkpoint must be, bit for bit, that of the undisturbed run, and so must the end.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

from faults.bench import LAST, SAVE_STEPS, Bench, last_logged
from faults.results import Try
from leviathan_train.checkpoints import store
from leviathan_train.run.folder import Run
from support.driver import Started, leviathan, processes_of, start

KILLS = 12
"""Kills in a chain, at most: a training that reaches its end is not killed any more."""
PATIENCE = 240.0
WHOM = ("trainer", "trainer", "launcher", "command line", "data worker", "all at once")
INSTANTS = ("save", "save", "save", "step", "step", "start")


class Ended(Exception):
    """The training ended before it could be killed."""


class Chain:
    """One training that is killed until it ends."""

    what = "kill -9"
    whom: tuple[str, ...] = WHOM
    instants: tuple[str, ...] = INSTANTS

    def __init__(
        self, bench: Bench, seed: int, folder: Path, kills: int = KILLS, last: int = LAST
    ) -> None:
        self._bench = bench
        self._kills = kills
        self._last = last
        self._seed = seed
        self._dice = random.Random(f"{bench.ranks} {seed}")
        self._run = folder / f"{type(self).__name__.lower()}-{bench.ranks}-{seed}"
        self._step = 0
        """The step that the next resume must begin at."""
        self._old: set[int] = set()
        """Inodes of the checkpoints that were there at the last start."""

    def tries(self) -> list[Try]:
        """Kill, and resume, and kill."""
        shutil.rmtree(self._run, ignore_errors=True)
        self._bench.copy(self._run)
        # A power cut that follows is to take what is written from now on, not this copy.
        subprocess.run(["sync", "-f", str(self._run)], check=True)
        self._step = _newest(self._run)
        found: list[Try] = []
        while len(found) < self._kills and (not found or found[-1].survived):
            if (one := self._kill(len(found))) is None:
                break
            found.append(one)
        if found and found[-1].survived and (problem := self._end()):
            found[-1] = Try(**(vars(found[-1]) | {"wrong": 1, "problem": problem}))
        if all(one.survived for one in found):
            shutil.rmtree(self._run)
        return found

    def _kill(self, number: int) -> Try | None:
        """Start, kill, and judge; None if the training ended before."""
        whom = self._dice.choice(self.whom)
        instant = self._dice.choice(self.instants)
        if whom == "data worker" and instant == "start":
            instant = "step"
        started = self._start()
        seed = f"{self._bench.ranks} {self._seed}.{number} {instant}"
        inside, reached, silent = False, 0, 0
        problem, resumed = "", self._step
        try:
            self._wait(started, instant)
            whom, victims = self._victims(started, whom)
            inside, reached = self._strike(started, victims)
            problem = self._settle(started, whom)
        except Ended:
            started.process.communicate(timeout=PATIENCE)
            return None
        except AssertionError as error:
            problem = f"{error}"[:300]
        left = self._left()
        if session := started.session():
            reached = max(reached, last_logged(session))
            if elsewhere := self._began(session, resumed):
                silent, problem = 1, elsewhere
        newest = _newest(self._run)
        lost = max(0, reached - newest)
        if lost > SAVE_STEPS:
            problem = problem or f"{lost} steps lost"
        wrong = self._bench.wrong(self._run, newest=True)
        self._step = newest
        fault = f"{self.what}: {whom}" + (", two ranks" if self._bench.ranks > 1 else "")
        problem = problem or " ".join(wrong)
        return Try(fault, inside, lost, silent, len(wrong), left, problem, seed)

    def _start(self) -> Started:
        bench = self._bench
        self._old = {path.stat().st_ino for _, path in store.folders(Run(self._run))}
        return start(bench.config, *bench.arguments(self._run), env=bench.env, run=self._run)

    def _wait(self, started: Started, instant: str) -> None:
        """Wait for the instant to kill at."""
        if instant == "start":
            time.sleep(self._dice.uniform(0.1, 12.0))
            if started.process.poll() is not None:
                raise Ended
            return
        # At the last step there is nothing left to kill.
        step = min(self._step + self._dice.randint(1, 2 * SAVE_STEPS), self._last - 2)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            session = started.session()
            if instant == "save" and self._is_saving():
                time.sleep(self._dice.uniform(0.0, 0.12))
                return
            if instant == "step" and session and last_logged(session) >= step:
                time.sleep(self._dice.uniform(0.0, 0.1))
                return
            if started.process.poll() is not None:
                raise Ended
            time.sleep(0.004 if instant == "save" else 0.03)
        raise AssertionError(f"never came to the instant to kill at: {started.status()}")

    def _strike(self, started: Started, victims: list[int]) -> tuple[bool, int]:
        """Kill; whether it fell into a save, and the last step that was logged before."""
        kill(victims)
        return self._is_saving(), 0

    def _victims(self, started: Started, whom: str) -> tuple[str, list[int]]:
        """Whom to kill; all, where the one that is meant is not there yet."""
        cli = started.process.pid
        family = psutil.Process(cli).children(recursive=True)
        launchers = family[:1]
        ranks = [child for one in launchers for child in _children(one)]
        workers = [child for rank in ranks for child in _children(rank)]
        one_of = {"launcher": launchers, "trainer": ranks, "data worker": workers}
        if whom == "command line":
            return whom, [cli]
        if chosen := one_of.get(whom):
            return whom, [self._dice.choice(chosen).pid]
        pids = [cli, *(one.pid for one in family)]
        self._dice.shuffle(pids)
        return "all at once", pids

    def _is_saving(self) -> bool:
        """Whether there is a checkpoint of this start that has no seal yet."""
        for _, path in store.folders(Run(self._run)):
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_ino not in self._old and not store.is_sealed(path):
                    return True
        return False

    def _settle(self, started: Started, whom: str) -> str:
        """See the training end, as it must after this kill; what is not as promised."""
        if whom == "command line":
            started.process.communicate()
        if whom in {"command line", "launcher"}:
            return self._pause(started)
        status, output = started.finish()
        if "Traceback" in output:
            return f"a traceback on the screen: {output[-300:]}"
        # A worker that dies after the last batch was fetched is missed by nobody.
        if status not in ({-9} if whom == "all at once" else {-9, 0, 1}):
            return f"exit {status}: {output[-300:]}"
        return ""

    def _pause(self, started: Started) -> str:
        """The training lives on: another start is refused, and a pause reaches it."""
        bench, run = self._bench, self._run
        if processes_of(run):
            to_run = ("train", bench.config, "--set", f"output_dir={run}")
            again = leviathan(*to_run, cwd=bench.folder, env=bench.env)
            if processes_of(run) and again.returncode != 1:
                return f"started beside a living training: {again.stderr[-300:]}"
        paused = leviathan("pause", run, cwd=bench.folder, env=bench.env)
        if "Traceback" in paused.stderr:
            return paused.stderr[-300:]
        if started.process.poll() is None:
            status, output = started.finish()
            if "Traceback" in output or status not in {0, 1, 75, 130}:
                return f"exit {status}: {output[-300:]}"
        return ""

    def _left(self) -> int:
        """Processes of the training that are still there some seconds later."""
        deadline = time.monotonic() + 10.0
        while (left := processes_of(self._run)) and time.monotonic() < deadline:
            time.sleep(0.05)
        kill(left)
        return len(left)

    def _began(self, session: Path, step: int) -> str:
        """Whether a session resumed from the newest intact checkpoint that there was."""
        try:
            launch = json.loads((session / "launch.json").read_text())
        except (OSError, ValueError):
            return ""  # killed before it was written
        if launch["resume_step"] != step:
            return f"resumed from {launch['resume_step']} instead of {step}"
        try:
            first = json.loads((session / "begin.json").read_text())["first_step"]
        except (OSError, ValueError):
            return ""
        return "" if first == step else f"began at {first} instead of {step}"

    def _end(self) -> str:
        """Train to the end, undisturbed; what is not as promised."""
        started = self._start()
        status, output = started.finish()
        if status or self._left():
            return f"exit {status}: {output[-300:]}"
        if _newest(self._run) != self._last:
            return f"ended at {_newest(self._run)}"
        return " ".join(self._bench.wrong(self._run))


def kill(pids: Iterable[int]) -> None:
    """kill -9 each of them."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children()
    except psutil.Error:
        return []


def _newest(run: Path) -> int:
    """The step of the newest intact checkpoint, every byte of it read."""
    found = store.latest(store.scan(Run(run), store.Read.ALL))
    return found.step if found else 0
