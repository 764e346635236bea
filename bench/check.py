"""How fast `check` looks at the rows of a file, beside what a training does with all of them.

    python bench/check.py [--rows N]

makes N rows of lengths as people write them (log-normal, some too long), one without an answer and
one twice, and prints rows a second of: the survey; `datasets` loading the file and a fast tokenizer
tokenising every row, which is the least that a training does; and counting lines. The start of
Python and of the libraries is left out of all of them.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WORDS = ("the", "sea", "is", "deep", "and", "a", "ship", "sails", "over", "waves", "to", "harbour")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000)
    options = parser.parse_args()
    os.environ |= {"AXOLOTL_DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["HF_HOME"] = str(folder / "hub")
        script = ROOT / "scripts" / "make_demo.py"
        command = [sys.executable, script, "--out", folder, "--rows", "640"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        file = make_rows(folder / "rows.jsonl", options.rows)
        size = file.stat().st_size / 2**20
        print(f"{options.rows:,} rows, {size:.0f} MiB, on {os.cpu_count()} cores\n")
        importlib.import_module("axolotl.loaders.tokenizer")
        importlib.import_module("axolotl.utils.data.wrappers")
        survey_seconds, found = timed(lambda: survey(folder, file))
        peers = {
            "datasets and tokenizer": timed(lambda: tokenise(folder, file))[0],
            "counting lines": timed(lambda: count(file))[0],
        }
    print("                          seconds   rows a second   of the survey's time")
    for label, seconds in {"survey": survey_seconds, **peers}.items():
        rate, ratio = options.rows / seconds, seconds / survey_seconds
        print(f"{label:<24} {seconds:>8.2f} {rate:>15,.0f} {ratio:>18.2f}")
    for fault in ("long", "silent", "duplicates"):
        about = "about " if found[fault]["estimated"] else ""
        print(f"{fault}: {about}{found[fault]['count']}")


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    done = work()
    return time.perf_counter() - began, done


def make_rows(file: Path, count: int) -> Path:
    dice = random.Random(0)
    rows = [
        {
            "instruction": f"Tell of journey {number}.",
            "input": "",
            "output": " ".join(dice.choices(WORDS, k=max(1, int(dice.lognormvariate(4.2, 0.8))))),
        }
        for number in range(count - 2)
    ]
    rows += [rows[0], {"instruction": "Say nothing.", "input": "", "output": ""}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def survey(folder: Path, file: Path) -> dict[str, Any]:
    """What `check` does in its job, once Axolotl is imported."""
    from leviathan_train.jobs.survey import survey_rows

    values = {
        "base_model": str(folder / "model"),
        "datasets": [{"path": str(file), "ds_type": "json", "type": "alpaca"}],
        "sequence_len": 2048,
    }
    return survey_rows(values, "config.yaml")


def tokenise(folder: Path, file: Path) -> None:
    """Load the file and tokenise every row, in batches, as fast as the library can."""
    from datasets import load_dataset
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    rows = load_dataset("json", data_files=str(file), split="train", cache_dir=str(folder / "c"))
    rows.map(
        lambda batch: tokenizer(
            [a + b for a, b in zip(batch["instruction"], batch["output"], strict=True)]
        ),
        batched=True,
        remove_columns=rows.column_names,
    )


def count(file: Path) -> int:
    return int(subprocess.check_output(["wc", "-l", file]).split()[0])


if __name__ == "__main__":
    main()
