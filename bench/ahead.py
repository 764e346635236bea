"""A start with nothing in memory, with and without what the last start read being read ahead.

    sudo python bench/ahead.py [--rounds N] [--disk MB:READS] [--answer SECONDS]

Three kinds of start by turns, from the command to the first logged step: without reading ahead,
with it, and with it for some seconds before, as while a prompt waits for its answer (those seconds
are not counted). --disk slows the disk down to so many MB and reads a second, by a control group.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from starts import first_step, train  # noqa: E402

from faults.bench import environment, settings  # noqa: E402

KINDS = ("without", "with", "answered")
READ_AHEAD = [sys.executable, "-m", "leviathan_train.jobs.read_ahead"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--disk", help="MB a second, colon, reads a second")
    parser.add_argument("--answer", type=float, default=3.0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        env = environment() | {"XDG_CACHE_HOME": str(folder / "cache")}
        config, run = folder / "config.yaml", folder / "run"
        values = settings(folder, env) | {"logging_steps": 1}
        config.write_text(yaml.safe_dump(values))
        train(config, env)
        (note,) = (folder / "cache/leviathan/start").glob("*.json")
        if args.disk:
            throttle(*map(int, args.disk.split(":")))
        seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for at in range(args.rounds):
            for kind in KINDS if at % 2 else KINDS[::-1]:
                shutil.rmtree(run)
                seconds[kind].append(start(kind, config, run, note, env, args.answer))
            told = ", ".join(f"{seconds[kind][-1]:.1f} s {kind}" for kind in KINDS)
            print(f"round {at + 1}: {told}", flush=True)
    without, ahead, answered = (statistics.median(seconds[kind]) for kind in KINDS)
    print(f"reading ahead:                       {ahead / without:.3f} of a start without it")
    print(f"the same, {args.answer:g} s before the answer:     {answered / without:.3f}")


def start(
    kind: str, config: Path, run: Path, note: Path, env: Mapping[str, str], wait: float
) -> float:
    """Seconds of one start with nothing in memory."""
    text = note.read_text()
    if kind == "without":
        note.unlink()
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")
    before = subprocess.Popen(READ_AHEAD, env=env) if kind == "answered" else None
    time.sleep(wait if before else 0)
    seconds = first_step(config, run, env)
    if before:
        before.wait()
    note.write_text(text)
    return seconds


def throttle(megabytes: int, reads: int) -> None:
    """Slow down what this process and its children read from the disk of the environment."""
    device = os.stat(sys.prefix).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    root = Path("/sys/fs/cgroup")
    if (old := root / "blkio").is_dir():
        group = old / "leviathan-bench"
        group.mkdir(exist_ok=True)
        (group / "blkio.throttle.read_bps_device").write_text(f"{number} {megabytes * 10**6}")
        (group / "blkio.throttle.read_iops_device").write_text(f"{number} {reads}")
    else:
        group = root / "leviathan-bench"
        group.mkdir(exist_ok=True)
        (group / "io.max").write_text(f"{number} rbps={megabytes * 10**6} riops={reads}")
    (group / "cgroup.procs").write_text(str(os.getpid()))


if __name__ == "__main__":
    main()
