"""The script that measures a GPU, tried on the CPU with a tiny model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.train, pytest.mark.slow, pytest.mark.timeout(1200)]


def test_the_script_prints_its_table(env: dict[str, str], tmp_path: Path) -> None:
    script = [sys.executable, str(ROOT / "scripts" / "measure_gpu.py")]
    options = ["--shape", "tiny", "--steps", "8", "--out", str(tmp_path / "out")]
    path = os.pathsep.join([str(Path(sys.executable).parent), env["PATH"]])
    done = subprocess.run(
        [*script, *options], capture_output=True, text=True, env=env | {"PATH": path}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    table = dict(
        line.strip("| ").split(" | ", 1) for line in done.stdout.splitlines() if " | " in line
    )
    assert table["straight against paused and resumed"] == "none: identical to the last bit"
    assert table["straight against resumed, no pause"] == "none: identical to the last bit"
    for name in ("a step, median", "a save, with hashing and seal"):
        assert float(table[name].removesuffix(" s")) > 0
    assert table["from `pause` to a sealed checkpoint"].endswith(" s")
    assert table["peak of the process"].endswith("GiB")
    assert (tmp_path / "out" / "measured.md").read_text().strip() in done.stdout
