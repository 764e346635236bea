"""Driving the real command: start it, wait for a step, send it signals, compare what it left."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LEVIATHAN = str(Path(sys.executable).with_name("leviathan"))
PATIENCE = 480.0

Status = dict[str, Any]


@dataclass
class Started:
    """A `leviathan train` that is under way."""

    process: subprocess.Popen[str]
    run: Path
    before: set[Path]
    dead: bool = False

    def session(self) -> Path | None:
        """The folder of this start's own session, once there is one."""
        folders = set((self.run / ".leviathan/sessions").glob("*")) - self.before
        return max(folders, default=None)

    def status(self) -> Status:
        session = self.session()
        try:
            value: Status = json.loads((session / "status.json").read_text()) if session else {}
        except (OSError, ValueError):
            value = {}
        return value

    def wait(self, condition: Callable[[Status], bool]) -> Status:
        """Wait until the trainer's status fulfils `condition`."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            status = self.status()
            if condition(status):
                return status
            if not self.dead and self.process.poll() is not None:
                raise AssertionError(f"ended: {self.finish()}")
            time.sleep(0.02)
        raise AssertionError(f"never came: {self.status()}")

    def step(self, number: int) -> Status:
        """Wait until training has done `number` steps."""
        return self.wait(lambda s: s.get("step", 0) >= number and s["phase"] != "saving")

    def phase(self, name: str) -> Status:
        return self.wait(lambda s: s.get("phase") == name)

    def pid(self, role: str) -> int:
        session = self.session()
        assert session
        value = json.loads((session / f"process-{role}.json").read_text())
        return int(value["pid"])

    def signal(self, number: int = signal.SIGINT) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """kill -9 of the command line alone."""
        self.process.kill()
        self.process.communicate()
        self.dead = True

    def finish(self) -> tuple[int, str]:
        """Exit status and output; the test is at fault if it never ends."""
        output, _ = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, output


def leviathan(
    *args: str | Path, cwd: Path, env: Mapping[str, str], check: int | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    done = subprocess.run(
        [LEVIATHAN, *map(str, args)],
        cwd=cwd,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    if check is not None:
        assert done.returncode == check, done.stdout + done.stderr
    return done


def start(
    config: Path,
    *args: str,
    env: Mapping[str, str],
    run: Path | None = None,
    cwd: Path | None = None,
) -> Started:
    """Start `leviathan train CONFIG`, in the config's folder unless `cwd` names another."""
    run = run or config.parent / "run"
    before = set((run / ".leviathan/sessions").glob("*"))
    process = subprocess.Popen(
        [LEVIATHAN, "train", str(config), *args],
        cwd=cwd or config.parent,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return Started(process, run, before)


def train(
    config: Path, *args: str, env: Mapping[str, str], expect: int = 0, run: Path | None = None
) -> str:
    """Train to the end and return the output."""
    status, output = start(config, *args, env=env, run=run).finish()
    assert status == expect, output
    return output


def pause_at(
    config: Path, step: int, *args: str, env: Mapping[str, str], run: Path | None = None
) -> int:
    """Train, press Ctrl+C once `step` is done, and return the step that was saved."""
    started = start(config, *args, env=env, run=run)
    started.step(step)
    started.signal()
    status, output = started.finish()
    assert status == 75, output
    session = started.session()
    assert session
    return int(json.loads((session / "end.json").read_text())["step"])


def training_state(checkpoint: Path, *, ranks: int = 1) -> dict[str, Any]:
    """All that a resume restores, and all that was logged, without the times of day."""
    import torch
    from safetensors.torch import load_file

    state = json.loads((checkpoint / "trainer_state.json").read_text())
    timed = ("runtime", "per_second", "per_sec")
    return {
        "adapter": load_file(checkpoint / "adapter_model.safetensors"),
        "optimizer": torch.load(checkpoint / "optimizer.pt", weights_only=True),
        "scheduler": torch.load(checkpoint / "scheduler.pt", weights_only=True),
        "rng": [
            torch.load(checkpoint / name, weights_only=False)
            for name in (
                ["rng_state.pth"] if ranks == 1 else [f"rng_state_{n}.pth" for n in range(ranks)]
            )
        ],
        "log": [
            {key: part for key, part in entry.items() if not any(word in key for word in timed)}
            for entry in state["log_history"]
        ],
        "step": state["global_step"],
        "epoch": state["epoch"],
        "best": [state["best_metric"], state["best_global_step"]],
        "tokens": state["num_input_tokens_seen"],
        "flos": state["total_flos"],
    }


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Where two states differ in a single bit."""
    import numpy
    import torch

    if isinstance(one, torch.Tensor):
        return [] if torch.equal(one, other) else [where]
    if isinstance(one, numpy.ndarray):
        return [] if (one == other).all() else [where]
    if isinstance(one, Mapping):
        if one.keys() != other.keys():
            return [f"{where}: {sorted(map(str, one.keys() ^ other.keys()))}"]
        return [line for key in one for line in differences(one[key], other[key], f"{where}.{key}")]
    if isinstance(one, list | tuple):
        if len(one) != len(other):
            return [f"{where}: {len(one)} instead of {len(other)}"]
        pairs = enumerate(zip(one, other, strict=True))
        return [line for i, (a, b) in pairs for line in differences(a, b, f"{where}[{i}]")]
    return [] if one == other else [f"{where}: {one} instead of {other}"]


def processes_of(run: Path) -> list[int]:
    """Pids of live processes whose environment names a session of `run`."""
    needle = f"LEVIATHAN_SESSION={run.resolve()}/".encode()
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                state = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[0]
                if needle in Path(f"/proc/{entry}/environ").read_bytes() and state != "Z":
                    found.append(int(entry))
            except OSError:
                continue
    return found


def axolotls_of(run: Path) -> list[int]:
    """The processes of `run` that `pkill -f axolotl` finds."""
    named = []
    for pid in processes_of(run):
        with contextlib.suppress(OSError):
            if b"axolotl" in Path(f"/proc/{pid}/cmdline").read_bytes():
                named.append(pid)
    return named
