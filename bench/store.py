"""What the store costs beside the tools that read and write the same bytes.

    python bench/store.py [--rounds N] [--megabytes N] [--folder DIR]

A checkpoint of so many MB is written, by turns: its seal beside the writing itself (a save of
torch, forced to disk), `verify` beside `sha256sum`, `cleanup` beside `rm -rf`. The ratios are of
one run of the script; the medians are told. Files are read from memory: the disk is not measured.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from leviathan_train.system.files import sync_file, sync_folder  # noqa: E402
from support import shapes  # noqa: E402

LEVIATHAN = str(Path(sys.executable).with_name("leviathan"))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--folder", type=Path, help="on the disk to be measured")
    args = parser.parse_args()
    tensors = {str(n): torch.randn(1 << 18) for n in range(args.megabytes)}  # 1 MiB each
    size = args.megabytes * (1 << 20)
    ratios: dict[str, list[float]] = {"seal": [], "verify": [], "cleanup": []}
    speed: list[float] = []
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        for number in range(args.rounds):
            run = Path(name) / f"run{number}"
            path = shapes.make(run, 10)
            save = timed(write, tensors, path)
            ratios["seal"].append(timed(shapes.seal, path) / save)
            verify = timed(shell, LEVIATHAN, "checkpoints", "verify", str(run))
            files = [str(file) for file in path.iterdir()]
            ratios["verify"].append(verify / timed(shell, "sha256sum", *files))
            speed.append(size / verify / 1e9)
            for step in (20, 30, 40):
                shutil.copytree(path, run / f"checkpoint-{step}")
            other = shutil.copytree(run, Path(name) / "other")
            cleanup = ("checkpoints", "cleanup", str(run), "--keep", "1", "--yes")
            deleted = timed(shell, LEVIATHAN, *cleanup)
            ratios["cleanup"].append(deleted / timed(shell, "rm", "-rf", str(other)))
            shutil.rmtree(run)
    told = {kind: statistics.median(found) for kind, found in ratios.items()}
    print(f"seal of {args.megabytes} MB beside torch.save and fsync: {told['seal']:.2f}")
    print(f"verify beside sha256sum: {told['verify']:.2f} ({statistics.median(speed):.2f} GB/s)")
    print(f"cleanup of three of them beside rm -rf of four: {told['cleanup']:.2f}")


def write(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Save, and force to disk, as a checkpoint that must survive a power cut."""
    torch.save(tensors, path / "optimizer.pt")
    sync_file(path / "optimizer.pt")
    sync_folder(path)


def timed(do: Callable[..., object], *args: Any) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    do(*args)
    return time.perf_counter() - began


def shell(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


if __name__ == "__main__":
    main()
