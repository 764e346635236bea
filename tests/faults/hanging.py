"""A network mount that hangs: for some seconds, or for good.

The runs lie on `faults.passthrough`. A process that waits for it cannot even be killed until the
mount answers or is given up.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from faults import places
from faults.bench import last_logged
from faults.kills import PATIENCE, Chain, Ended, kill
from faults.results import Try
from leviathan_train.checkpoints import store
from leviathan_train.run.folder import TRAINING_ROOT, Run
from support.demo import ROOT
from support.driver import LEVIATHAN, Started

HANGS = 4
"""Hangs of one training that goes on after each."""
SECONDS = (8.0, 12.0)
"""How long such a hang lasts."""
LIMIT = 300.0
"""Seconds in which a command must have answered or refused; alone it takes two or ten."""
REMEMBER = "from leviathan_train.run import index; index.remember(index.Path({!r}), {!r}, '')"


def missing() -> str:
    """What is not here; empty if nothing is."""
    if os.geteuid() != 0:
        return "needs root"
    if not os.path.exists("/dev/fuse"):
        return "no /dev/fuse"
    if importlib.util.find_spec("mfusepy") is None:
        return "mfusepy is not installed"
    probe = (sys.executable, "-c", "import mfusepy")
    if subprocess.run(probe, check=False, capture_output=True).returncode:
        return "libfuse is not installed"
    return ""


class Mount:
    """A folder that is served as a network mount would be.

    Attributes:
        path: where.
    """

    def __init__(self, folder: Path) -> None:
        folder = folder.resolve()
        self.path = folder / "mount"
        self._below, self._flag = folder / "below", folder / "hangs"
        for path in (self.path, self._below):
            path.mkdir(parents=True, exist_ok=True)
        self.serve()

    def serve(self) -> None:
        """Mount the folder; what waited before is to have been given up."""
        arguments = map(str, (self._below, self.path, self._flag))
        self._server = subprocess.Popen(
            [sys.executable, "-m", "faults.passthrough", *arguments],
            cwd=ROOT / "tests",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60.0
        told = str(self.path).replace(" ", "\\040")
        while f" {told} fuse" not in Path("/proc/mounts").read_text():
            if self._server.poll() is not None or time.monotonic() > deadline:
                self._server.kill()
                raise AssertionError("FUSE mounts nothing")
            time.sleep(0.02)

    def hang(self) -> None:
        """Answer nothing from now on."""
        self._flag.touch()

    def wake(self) -> None:
        """Answer again, what was asked meanwhile too."""
        self._flag.unlink()

    def give_up(self) -> None:
        """Let each call that waits fail; what it asked for is not done."""
        self._server.kill()
        self._server.wait()
        self._flag.unlink(missing_ok=True)
        subprocess.run(["umount", "-l", str(self.path)], check=True)


@contextlib.contextmanager
def mount(folder: Path) -> Iterator[Mount]:
    """A mount for a while."""
    made = Mount(folder)
    try:
        yield made
    finally:
        made.give_up()
        shutil.rmtree(folder)


class Hung(Chain):
    """A training whose mount hangs for good, again and again.

    All its processes are killed, the mount is given up and served again.
    """

    what = "mount hangs for good"
    whom = ("training",)

    def tries(self) -> list[Try]:
        with mount(self._run) as self._mount:
            self._run = self._mount.path / "run"
            return super().tries()

    def _victims(self, started: Started, whom: str) -> tuple[str, list[int]]:
        return whom, super()._victims(started, "all at once")[1]

    def _strike(self, started: Started, victims: list[int]) -> tuple[bool, int]:
        session = started.session()
        reached, saving = last_logged(session) if session else 0, self._is_saving()
        self._mount.hang()
        time.sleep(self._dice.uniform(1.0, 4.0))  # until they have run into it
        kill(victims)
        self._mount.give_up()
        return saving, reached

    def _settle(self, started: Started, whom: str) -> str:
        try:
            started.process.communicate(timeout=PATIENCE)
            self._left()
        finally:
            self._mount.serve()
        return ""


class Waiting(Hung):
    """A training whose mount hangs and comes back; the last time it is asked to pause meanwhile."""

    what = "mount hangs and comes back"

    def tries(self) -> list[Try]:
        with mount(self._run) as self._mount:
            self._run = self._mount.path / "run"
            self._bench.copy(self._run)
            self._step = store.scan(Run(self._run))[-1].step
            self._old = set()
            started = self._start()
            found: list[Try] = []
            try:
                with contextlib.suppress(Ended):
                    for number in range(HANGS):
                        found.append(self._hang(started, number, pause=number == HANGS - 1))
                problem = self._end_of(started)
            except AssertionError as error:
                problem = f"{error}"[:300]
                self._mount.give_up()
                kill(super()._victims(started, "training")[1])
                self._mount.serve()
            left, wrong = self._left(), self._bench.wrong(self._run)
            more = {"left": left, "wrong": len(wrong), "problem": problem or " ".join(wrong)}
            return [*found[:-1], Try(**(vars(found[-1]) | more))] if found else []

    def _hang(self, started: Started, number: int, *, pause: bool) -> Try:
        instant = self._dice.choice(("save", "step"))
        self._wait(started, instant)
        inside = self._is_saving()
        self._mount.hang()
        if pause:
            started.signal()
        time.sleep(self._dice.uniform(*SECONDS))
        self._mount.wake()
        if session := started.session():
            self._step = last_logged(session)
        fault = f"{self.what}: {'Ctrl+C meanwhile' if pause else 'training'}"
        return Try(fault, inside, seed=f"{self._bench.ranks} {self._seed}.{number} {instant}")

    def _end_of(self, started: Started) -> str:
        """See it pause, and train on to its end; what is not as promised."""
        status, output = started.finish()
        session = started.session()
        newest = store.latest(store.scan(Run(self._run), store.Read.ALL))
        if "Traceback" in output or status not in {0, 75} or not (session and newest):
            return f"exit {status}: {output[-300:]}"
        if lost := last_logged(session) - newest.step:
            return f"{lost} steps lost"
        return self._end()


def commands(folder: Path) -> list[Try]:
    """What every command says of a run whose mount hangs, and of another one meanwhile."""
    place = folder.resolve() / "commands"
    shutil.rmtree(place, ignore_errors=True)
    config = place / "other/config.yaml"
    with mount(place / "network disk") as made:
        hung = places.make_run(made.path / "hung")
        other = places.make_run(place / "other" / TRAINING_ROOT / "other")
        config.write_text(yaml.safe_dump({"base_model": "x", "output_dir": str(hung.path)}))
        env = os.environ | {"XDG_STATE_HOME": str(place / "state")}
        for run in (hung, other):
            remember = REMEMBER.format(str(run.path), str(config))
            subprocess.run([sys.executable, "-c", remember], env=env, check=True)
        made.hang()
        try:
            return [
                *_of_others(other, config.parent, env),
                *_of_the_hung(hung, config, env),
            ]
        finally:
            made.wake()


def _of_others(other: Run, cwd: Path, env: dict[str, str]) -> list[Try]:
    """Commands that the mount is nothing to."""
    fault = "mount hangs: a command about another run"
    of_it = [[str(other.path) if w == "RUN" else w for w in c] for c in places.READING]
    asked = [words for words in of_it if "CONFIG" not in words]
    asked += [["status"], ["status", "other"], ["checkpoints", "list", "other"]]
    found = []
    for words, (status, out, err) in zip(asked, answers(asked, cwd, env), strict=True):
        problem = places.problem_of(words, (status, out, err))
        if not problem and "runs" in words and ("other" not in out or "left out" not in err):
            problem = f"{out} {err}"
        if not problem and words[-1] == "other" and status:
            problem = err
        found.append(Try(fault, problem=problem, seed=" ".join(words)))
    return found


def _of_the_hung(hung: Run, config: Path, env: dict[str, str]) -> list[Try]:
    """Commands about the run that cannot be reached: refused."""
    fault = "mount hangs: a command about its run"
    named = {"RUN": str(hung.path), "CONFIG": str(config)}
    all_of_them = (*places.READING, *places.ASKING, places.DELETING, ("merge", "RUN"))
    asked = [[named.get(w, w) for w in words] for words in all_of_them if "runs" not in words]
    asked += [["status", str(config)], ["train", str(config), "--resume", "auto"]]
    asked += [["status", "hung"], ["pause", "hung"]]
    found = []
    for words, answer in zip(asked, answers(asked, config.parent, env), strict=True):
        problem = places.problem_of(words, answer)
        if not problem and (answer[0] not in {1, 2} or "does not answer" not in answer[2]):
            problem = f"exit {answer[0]}: {answer[2]}"
        found.append(Try(fault, problem=problem, seed=" ".join(words)))
    interrupted = ["status", str(hung.path)]
    [(status, _, err)] = answers([interrupted], config.parent, env, interrupt_after=1.0)
    problem = "" if status == 130 else f"exit {status}: {err}"
    found.append(Try("mount hangs: Ctrl+C at a command about its run", problem=problem))
    return found


def answers(
    asked: Sequence[Sequence[str]],
    cwd: Path,
    env: dict[str, str],
    interrupt_after: float | None = None,
) -> list[places.Answer]:
    """What commands say that are started all at once; one that hangs has the status -1."""
    started, found = [], []
    for number, words in enumerate(asked):
        # Not a pipe: whoever reads it would wait for what the command leaves behind.
        outputs = [cwd / f"{number}.out", cwd / f"{number}.err"]
        with outputs[0].open("wb") as out, outputs[1].open("wb") as err:
            process = subprocess.Popen(
                [LEVIATHAN, *words],
                cwd=cwd,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
        started.append((process, outputs))
    if interrupt_after is not None:
        time.sleep(interrupt_after)
        for process, _ in started:
            process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + LIMIT
    for process, outputs in started:
        try:
            status = process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()  # which it feels when the mount is back
            status = -1
        texts = [path.read_text(errors="replace") for path in outputs]
        found.append((status, texts[0], texts[1]))
    return found
