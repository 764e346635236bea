"""Starts of `leviathan train` that the benchmarks time."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

LEVIATHAN = str(Path(sys.executable).with_name("leviathan"))


def train(config: Path, env: Mapping[str, str], *words: str) -> None:
    """Train to the end."""
    argv = [LEVIATHAN, "train", str(config), *words]
    done = subprocess.run(argv, cwd=config.parent, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def first_step(config: Path, run: Path, env: Mapping[str, str], *words: str) -> float:
    """Seconds from the command to the first logged step of its session; then it is killed."""
    argv = [LEVIATHAN, "train", str(config), *words]
    sessions = run / ".leviathan/sessions"
    before = set(sessions.glob("*"))
    began = time.monotonic()
    process = subprocess.Popen(
        argv, cwd=config.parent, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while True:
        for session in set(sessions.glob("*")) - before:
            metrics = session / "metrics.jsonl"
            lines = metrics.read_text().splitlines() if metrics.exists() else []
            if any("loss" in json.loads(line) for line in lines):
                seconds = time.monotonic() - began
                subprocess.run([LEVIATHAN, "stop", str(run), "--now"], env=env, capture_output=True)
                process.wait()
                return seconds
        assert process.poll() is None, "it ended before its first step"
        time.sleep(0.02)
