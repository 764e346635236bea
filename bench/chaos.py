"""Kill a training at each file event of its saves, by ckpt-chaos, and resume it.

    python bench/chaos.py [--points 36] [--jobs 2] [--folder FOLDER]

ckpt-chaos is a tester of others. It lists what a training does to the files of its run, kills it
before, or halfway through, one of these events after the other, resumes, and judges: whether the
resume fails, ends with another result than the undisturbed training, or passes over a checkpoint
that is whole. The trainer itself, `axolotl.cli.train`, is under its eye: once alone, resumed by
Axolotl's `auto_resume_from_checkpoints`, and once with leviathan's plugin, resumed by
`leviathan train`.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from ckpt_chaos.runner import Row, rejudge  # noqa: E402

from faults.bench import environment, settings  # noqa: E402
from support.driver import pause_at  # noqa: E402

BIN = Path(sys.executable).parent
LAST, SAVE_STEPS = 32, 8
MODES = {
    "before": "killed before a file is made, renamed or deleted",
    "torn": "killed when a file is written by half",
    "term": "told to end (SIGTERM), killed 5 s later",
}
VERDICTS = {
    "LOST_WORK": "passed over a whole checkpoint",
    "HARD_FAIL": "failed to resume",
    "SILENT_DIVERGENCE": "came to another result",
}
"""What else than a resume from the newest whole checkpoint to the undisturbed result."""


@dataclass(frozen=True)
class Side:
    """One of the two that are compared.

    Attributes:
        config: whose `output_dir` is `run`, in the folder that a training is started in.
        resume: the command that goes on there.
        step: a pattern for the step of the resume in that command's output.
    """

    name: str
    config: Path
    resume: str
    step: str

    @property
    def train(self) -> str:
        return f"{sys.executable} -m axolotl.cli.train {self.config}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--points", type=int, default=36, help="kills on each side")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=ROOT / "work/chaos")
    options = parser.parse_args()
    folder: Path = options.folder.absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    found = {}
    for side in sides(folder):
        print(f"{side.name}...", file=sys.stderr, flush=True)
        found[side.name] = chaos(side, folder, options.points, options.jobs)
    (folder / "table.md").write_text(table(found))
    print(table(found), end="")


def sides(folder: Path) -> Iterator[Side]:
    """The two, with a first checkpoint: LoRA's first weights differ from start to start."""
    env = environment()
    values = settings(folder, env) | {
        "output_dir": "run",
        "max_steps": LAST,
        "save_steps": SAVE_STEPS,
        "auto_resume_from_checkpoints": True,
        # Speeds and seconds would give each checkpoint another size.
        "val_set_size": 0,
        "include_tkps": False,
    }
    del values["eval_steps"]
    config = write(folder / "ours.yaml", values)
    beginning = folder / "beginning"
    to_run = ("--set", f"output_dir={beginning}")
    pause_at(config, SAVE_STEPS, *to_run, env=env, run=beginning)
    first = beginning / f"checkpoint-{SAVE_STEPS}"
    shutil.copytree(first, folder / "ours" / first.name)
    yield Side(
        "leviathan",
        config,
        f"{BIN / 'leviathan'} train {config} --resume auto",
        r"(?:Loading checkpoint: \S*checkpoint-|is already finished, at step )(\d+)",
    )
    of_leviathan = ("plugins", *(key for key in values if key.startswith("leviathan")))
    config = write(
        folder / "plain.yaml", {k: v for k, v in values.items() if k not in of_leviathan}
    )
    shutil.copytree(first, folder / "plain" / first.name)
    (folder / "plain" / first.name / "leviathan.json").unlink()
    yield Side(
        "plain Axolotl",
        config,
        f"{sys.executable} -m axolotl.cli.train {config}",
        r"resume from checkpoint at \S*checkpoint-(\d+)",
    )


def write(path: Path, values: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(values))
    return path


def chaos(side: Side, folder: Path, points: int, jobs: int) -> list[Row]:
    """Let ckpt-chaos do its work, and return what it found."""
    name = side.config.stem
    # Its output goes into a file, not into the pipe that ckpt-chaos reads to its end: data
    # workers outlive a kill for some seconds.
    train = (
        f"exec >{{out}}.log 2>&1 && mkdir -p {{out}} && cp -r {shlex.quote(str(folder / name))}"
        f" {{out}}/run && cd {{out}} && exec {side.train}"
    )
    work = folder / f"found-{name}"
    argv = [
        *(str(BIN / "ckpt-chaos"), "run", "--work", str(work), "--jobs", str(jobs)),
        *("--modes", ",".join(MODES), "--max-points", str(points), "--timeout", "300"),
        *("--checkpoint-glob", "{out}/run/checkpoint-*", "--step-regex", side.step),
        *("--result-file", "{out}/run/adapter_model.safetensors"),
        *("--resume-cmd", shlex.join(["sh", "-c", f"cd {{out}} && exec {side.resume}"])),
        *("--", "sh", "-c", train),
    ]
    with (folder / f"{name}.txt").open("w") as out:
        done = subprocess.run(argv, env=environment(), stdout=out, stderr=subprocess.STDOUT)
    if not (found := rejudge(work)):
        sys.exit(f"ckpt-chaos ended with {done.returncode}: see {out.name}")
    return found


def table(found: dict[str, list[Row]]) -> str:
    """What became of the kills of each kind, on each side."""
    lines = [f"| the trainer is | {' | '.join(found)} |", f"|---|{'---|' * len(found)}"]
    for mode, means in MODES.items():
        cells = []
        for rows in found.values():
            # A file that is open to the end of the training is cut when nothing is left to kill.
            killed = (row for row in rows if row.crashed or mode == "term")
            verdicts = Counter(row.verdict for row in killed if f"[{mode}]" in row.label)
            good = verdicts.pop("PASS", 0)
            others = [f"{number} {VERDICTS[verdict]}" for verdict, number in verdicts.items()]
            cells.append(", ".join([f"{good} of {good + verdicts.total()}", *others]))
        lines.append(f"| {means} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
