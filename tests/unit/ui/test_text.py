"""Tables, and the line of progress during a training."""

from __future__ import annotations

import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from leviathan_train.launch.activity import Activity
from leviathan_train.run.folder import Run
from leviathan_train.run.records import Launch, Phase, Request, Status
from leviathan_train.ui import text
from leviathan_train.ui.progress import Screen, progress_line


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def table_at(width: int, monkeypatch: pytest.MonkeyPatch, rows: list[list[str]]) -> list[str]:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", str(width))
    text.table(["Run", "Steps", "State"], rows, spare=["Steps"])
    return terminal.getvalue().splitlines()


def test_a_narrow_terminal_goes_without_the_columns_that_can_be_spared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [["a" * 20, "100-200", "intact"]]
    assert table_at(38, monkeypatch, rows)[0].split() == ["Run", "Steps", "State"]
    narrow = table_at(30, monkeypatch, rows)
    assert narrow[0].split() == ["Run", "State"] and max(map(len, narrow)) <= 30
    long = table_at(22, monkeypatch, rows)
    assert max(map(len, long)) <= 22 and [line.split()[0] for line in long[2:]] == [
        "a" * 14,
        "a" * 6,
    ]
    assert "Steps" in table_at(10, monkeypatch, rows)[0], "leaving it out would not help"


def test_a_piped_table_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    text.table(["Run", "Steps"], [["x" * 300, "1"]], spare=["Steps"])
    assert capsys.readouterr().out.splitlines()[0].endswith("Steps")


def test_a_cause_is_one_line() -> None:
    assert text.one_line("CUDA\n  out of\tmemory") == "CUDA out of memory"
    assert len(text.one_line("x" * 1000)) == 200 and "\x1b" not in text.one_line("\x1b[2J")


def activity(phase: Phase = Phase.TRAINING, asked: Request | None = None) -> Activity:
    status = Status(
        phase=phase, step=1500, max_steps=3525, steps_per_second=0.271, eta_seconds=7472.0
    )
    return Activity(0.0, Run(Path("r")), training=True, over=False, status=status, asked=asked)


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
def test_the_line_of_progress_never_wraps(width: int) -> None:
    console = Console(width=width, force_terminal=True, color_system=None)
    for now in (activity(), activity(asked=Request(by="Ctrl+C"))):
        with console.capture() as captured:
            console.print(progress_line(now, width))
        shown = captured.get().rstrip("\n")
        assert "\n" not in shown and len(shown.rstrip()) <= width
    if width >= 60:
        assert "pausing: training" in shown and "1500/3525 43%" in shown and "ETA 2h 04m" in shown


def test_without_a_terminal_each_phase_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    phases = [Phase.STARTING, Phase.DATA, Phase.DATA, Phase.MODEL, Phase.EVALUATING]
    for phase in [*phases, Phase.TRAINING, Phase.SAVING, Phase.TRAINING]:
        screen.progress(activity(phase))
    told = capsys.readouterr().out.splitlines()
    assert told == [
        "Importing Axolotl...",
        "Preparing the data...",
        "Loading the model...",
        "Training...",
    ]


def test_a_message_breaks_between_words_and_a_command_stays_whole() -> None:
    command = (
        "leviathan train my.yaml --set max_steps=400 --set save_steps=100 --window 20:00-08:00"
    )
    told = f"Resume this run with:  {command}    or start over, which sets all of it aside:  never"
    lines = text.fold(told, 60)
    assert f"  {command}" in lines
    assert all(len(line) <= 60 for line in lines if command not in line)
    assert " ".join(" ".join(lines).split()) == " ".join(told.split())
    assert text.fold("short", 60) == ["short"]
    assert all(len(line) <= 30 for line in text.fold("   " + "some words " * 9, 30))
    assert text.fold("x" * 70, 60) == ["x" * 70], "a path is not cut"
    saved = f"Checkpoint saved to /{'long/' * 12}run/checkpoint-1501"
    assert text.fold(saved, 60) == [saved], "nor parted from what it is"


def test_while_it_loads_the_seconds_are_told_and_those_of_the_last_time() -> None:
    now = replace(
        activity(),
        at=108.0,
        status=Status(phase=Phase.MODEL),
        launch=Launch(started=100.0),
        start_seconds=14.0,
    )
    assert str(progress_line(now, 80)) == (
        "loading the model  8s (first step after 14s the last time)"
    )
    assert str(progress_line(replace(now, start_seconds=None), 80)) == "loading the model  8s"
    assert len(str(progress_line(now, 30))) <= 30


@pytest.mark.parametrize(("width", "columns"), [(40, "Run Steps State"), (30, "Run State")])
def test_the_widest_column_takes_several_lines_before_another_is_left_out(
    monkeypatch: pytest.MonkeyPatch, width: int, columns: str
) -> None:
    reason = "damaged: optimizer.pt is missing"
    lines = table_at(width, monkeypatch, [["a" * 12, "", reason], ["b", "", "intact"]])
    assert lines[0].split() == columns.split()
    assert max(map(len, lines)) <= width
    begin = lines[0].index("State")
    *folded, last = (line[begin:].strip() for line in lines[2:])
    assert (" ".join(folded), last) == (reason, "intact")


def test_a_sign_counts_as_the_two_cells_that_it_takes() -> None:
    told = "✅ 48G free; the size of a checkpoint is not known before the first."
    lines = text.fold(told, 60)
    assert [cell_len(line) <= 60 for line in lines] == [True, True], lines
