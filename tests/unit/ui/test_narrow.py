"""On a terminal of 60 columns nothing breaks within a word, and no table falls apart."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from leviathan_train.cli import cli, main
from leviathan_train.run.folder import Run
from leviathan_train.run.records import End, Ending, Launch
from support import shapes
from support.demo import MakeConfig
from support.runs import end_session
from unit.ui.test_text import Terminal

WIDTH = 60
LONG = (
    "CUDA out of memory: tried to allocate 2.00 GiB on a card that has 15.7 GiB, 14.9 of it taken"
)


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run with a damaged checkpoint and a session that crashed for a reason of many words."""
    found = Run(tmp_path / "work/training/a_run_of_the_usual_name")
    for step in (1000, 2000, 3000):
        shapes.make(found.path, step)
    (found.checkpoint(2000) / "optimizer.pt").unlink()
    session = found.open_session(Launch(config="my.yaml", cwd=str(tmp_path)))
    end_session(session, End(Ending.CRASHED, 3000, None, LONG, time.time()))
    return found


def printed(monkeypatch: pytest.MonkeyPatch, *words: str) -> list[str]:
    terminal = Terminal()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", terminal)
        with pytest.raises(SystemExit):
            main(list(words))
    return terminal.getvalue().splitlines()


@pytest.mark.parametrize(
    "words",
    [
        "status",
        "history",
        "runs",
        "checkpoints list",
        "checkpoints latest",
        "checkpoints verify",
        "checkpoints cleanup --keep 1 --dry-run",
    ],
)
def test_a_page_fits(run: Run, monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    lines = printed(monkeypatch, *words.split())
    assert lines and max(map(len, lines)) <= WIDTH, "\n".join(lines)
    told = " ".join(" ".join(lines).split())
    if words in {"status", "history"}:
        assert LONG in told, "nothing is left out"
    if words == "checkpoints verify":
        assert "damaged: optimizer.pt is missing" in told


def test_the_command_of_a_dry_run_stays_in_one_line(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = printed(monkeypatch, "train", str(make_config(tmp_path)), "--dry-run")
    assert lines[-1].startswith(sys.executable) and "-m axolotl.cli.train" in lines[-1]


def commands(command: click.Command, context: click.Context) -> Iterator[click.Context]:
    yield context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner
            yield from commands(inner, click.Context(inner, parent=context, info_name=name))


def test_every_help_fits() -> None:
    root = click.Context(cli, info_name="leviathan", **cli.context_settings)
    for context in commands(cli, root):
        for line in context.command.get_help(context).splitlines():
            assert len(line) <= WIDTH, f"{context.command_path}: {line}"
