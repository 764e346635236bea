"""How long `leviathan checkpoints list` takes, beside the shell and beside Python itself.

    python bench/list.py [--rounds N] [--json]

Runs with 5 and with 200 checkpoints of a long training are made, each checkpoint with a
`trainer_state.json` of 3 MB, with a seal and without. Whole processes are timed, by turns,
and the medians of the ratios are told: of a look at what was looked at before (`list`), as in
daily use, and of the first look, when nothing is known of the run (`first`).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support import shapes  # noqa: E402

SHELL = """
printf '%-10s%-10s%s\\n' Step Size 'Date Modified'
find "$1" -maxdepth 1 -type d -name 'checkpoint-*' | sort -V | while read -r path; do
    size=$(du -sh "$path")
    date=$(stat -c %y "$path")
    printf '%-10s%-10s%s\\n' "${path##*-}" "${size%%[[:space:]]*}" "${date%%.*}"
done
du -sh "$1"
"""


def make_run(folder: Path, count: int, *, sealed: bool) -> Path:
    """A run of `count` checkpoints that differ in their step."""
    run = folder / f"run_{count}_{'sealed' if sealed else 'plain'}"
    first = shapes.make(run, 1)
    text = json.dumps(shapes.trainer_state(20_000, every=1), indent=2)
    for step in range(1000, 1000 * count + 1, 1000):
        path = run / f"checkpoint-{step}"
        shutil.copytree(first, path)
        state = text.replace('"global_step": 20000,', f'"global_step": {step},')
        (path / "trainer_state.json").write_text(state)
        if sealed:
            shapes.seal(path)
    shutil.rmtree(first)
    return run


def seconds(command: list[str], env: dict[str, str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, env=env, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def measure(run: Path, rounds: int, env: dict[str, str]) -> dict[str, float]:
    """Milliseconds (medians) of each command, and the medians of the ratios of one turn."""
    commands = {
        "list": [str(Path(sys.executable).with_name("leviathan")), "checkpoints", "list", str(run)],
        "shell": ["bash", "-c", SHELL, "bash", str(run)],
        "click": [sys.executable, "-c", "import click"],
    }
    commands = {"first": commands["list"], **commands}
    turns = []
    for _ in range(rounds + 1):
        shutil.rmtree(run / ".leviathan" / "verified", ignore_errors=True)
        turns.append({name: seconds(command, env) for name, command in commands.items()})
    turns = turns[1:]  # the first compiles and fills the page cache
    found = {f"{name}_ms": 1000 * statistics.median(t[name] for t in turns) for name in commands}
    for one, other in (("list", "click"), ("list", "shell"), ("first", "shell")):
        found[f"{one}/{other}"] = statistics.median(turn[one] / turn[other] for turn in turns)
    return {name: round(value, 3) for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        # Compiled once, as an installed package is.
        env = os.environ | {"PYTHONPYCACHEPREFIX": f"{folder}/pycache", "NO_COLOR": "1"}
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        for count in (5, 200):
            for sealed in (True, False):
                run = make_run(Path(folder), count, sealed=sealed)
                found[run.name] = measure(run, args.rounds, env)
                shutil.rmtree(run)
    if args.json:
        print(json.dumps(found, indent=2))
        return
    for name, values in found.items():
        print(f"{name}: " + ", ".join(f"{key} {value:g}" for key, value in values.items()))
    print(
        "Goals: list/click at most 3 with 5 checkpoints, list/shell at most 0.25 and first/shell"
        " at most 2 with 200."
    )


if __name__ == "__main__":
    main()
