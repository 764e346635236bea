"""Imports only point up the list of rooms, and the command line stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src" / "leviathan_train"
HEAVY = {"torch", "transformers", "peft", "accelerate", "axolotl", "datasets", "safetensors"}
TRAINING_ROOMS = {"trainer", "jobs"}
"""What runs in a process of its own, with torch."""


def room_of(path: Path) -> str:
    """The package that a module lives in; empty at the top."""
    return path.relative_to(SOURCE).parts[0] if path.parent != SOURCE else ""


def imports_of(path: Path) -> set[str]:
    """Top-level names that a module imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize(
    "path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE))
)
def test_only_the_trainers_side_knows_the_heavy_libraries(path: Path) -> None:
    if room_of(path) not in TRAINING_ROOMS:
        assert not imports_of(path) & HEAVY


@pytest.mark.parametrize("command", [[], ["train"], ["checkpoints", "list"], ["merge"], ["check"]])
def test_help_imports_nothing_heavy(command: list[str]) -> None:
    code = (
        "import sys\n"
        "from leviathan_train.cli import main\n"
        f"try: main({[*command, '--help']!r})\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        f"loaded = {HEAVY!r} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Example" in done.stdout or not command or command == ["checkpoints"]
    assert "Exit status" in done.stdout


def test_the_command_line_does_not_import_the_trainers_side() -> None:
    for path in SOURCE.rglob("*.py"):
        if room_of(path) in TRAINING_ROOMS or path == SOURCE / "plugin.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                assert not node.module.startswith(
                    tuple(f"leviathan_train.{room}" for room in TRAINING_ROOMS)
                ), path
