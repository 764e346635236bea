"""Records of a run from a stranger: any bytes are a record or none, and can be shown."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leviathan_train.cli import main
from leviathan_train.run import metrics, records
from leviathan_train.run.folder import Run
from leviathan_train.run.records import Answer, Begin, End, Launch, Request, Status, Verdict
from leviathan_train.system import files, lines, units
from support import runs
from support.anything import JSON

KINDS: tuple[Any, ...] = (Status, Request, Answer, End, Launch, Begin, Verdict)


@settings(deadline=None)
@given(st.sampled_from(KINDS), st.data())
def test_any_document_is_a_record_or_none(kind: Any, data: st.DataObject) -> None:
    names = list(kind.__dataclass_fields__)
    value = data.draw(st.dictionaries(st.sampled_from(names), JSON) | JSON)
    found = records.from_json(kind, json.loads(json.dumps(value)))
    assert found is None or isinstance(found, kind)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_record_or_none(
    tmp_path_factory: pytest.TempPathFactory, text: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "record"
    path.write_bytes(text)
    for kind in KINDS:
        found = records.read(kind, path)
        assert found is None or isinstance(found, kind)


@settings(deadline=None)
@given(st.data())
def test_a_run_with_any_records_is_told(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """As `status` and `history` tell it: nothing that a record holds ends them."""
    from leviathan_train.launch.activity import look
    from leviathan_train.run.history import history
    from leviathan_train.ui import text, values

    run = Run(tmp_path_factory.mktemp("run"))
    session = runs.begin(run)
    for name, kind in (("status", Status), ("end", End), ("launch", Launch), ("begin", Begin)):
        keys = list(kind.__dataclass_fields__)
        value = data.draw(st.dictionaries(st.sampled_from(keys), JSON, max_size=6))
        (session.path / f"{name}.json").write_text(json.dumps(value))
    line = data.draw(st.dictionaries(st.sampled_from(["step", "at", "loss"]), JSON))
    session.metrics_file.write_text(json.dumps(line) + "\n")
    told = values.status(look(run))
    values.dumps(told)
    text.status(told)
    past = values.history(run, history(run))
    values.dumps(past)
    text.history(past)


def test_a_session_that_ended_at_no_time_is_still_json(tmp_path: Path) -> None:
    from leviathan_train.run.history import history
    from leviathan_train.ui import values

    run = Run(tmp_path)
    (runs.begin(run).path / "end.json").write_text('{"at": Infinity}')
    (session,) = json.loads(values.dumps(values.history(run, history(run))))["sessions"]
    assert session["ended"] is None


@settings(deadline=None)
@given(st.floats(), st.floats())
def test_any_number_of_seconds_has_a_text(at: float, now: float) -> None:
    for told in (units.clock(at), units.duration(at), units.size(at)):
        assert isinstance(told, str)
    if abs(now) < 1e9:
        assert isinstance(units.moment(at, now), str)


@settings(deadline=None)
@given(st.text(max_size=60))
def test_any_line_of_metrics_is_numbers_or_none(text: str) -> None:
    found = metrics._parsed(text)
    assert found is None or isinstance(found.step, int)


def test_what_is_longer_than_a_record_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "record"
    path.write_text('{"a": 1}')
    assert files.read_json(path) == {"a": 1}
    with path.open("r+b") as stream:
        stream.truncate(8 << 30)
    assert files.read_json(path) is None
    with pytest.raises(OSError, match="File too large"):
        files.read_bytes(path)
    path.unlink()
    path.write_bytes(b"x" * 100)
    assert files.read_bytes(path, 100) == b"x" * 100
    with pytest.raises(OSError, match="File too large"):
        files.read_bytes(path, 99)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(OSError, match="no regular file"):
        files.read_bytes(path)


def test_of_a_giant_file_of_lines_the_last_ones_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "MOST", 10)
    path = tmp_path / "metrics.jsonl"
    path.write_text("aaaaaaaaaaaaaaaaaaaaaaaa\nbbb\nccc\n")
    reader = lines.LineReader(path)
    assert reader.new()[-2:] == ["bbb", "ccc"]
    assert reader.new() == []
    os.mkfifo(tmp_path / "pipe")
    assert lines.LineReader(tmp_path / "pipe").new() == []


def test_no_record_reaches_the_terminal_raw(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "a\x1b]0;owned\x07\x1b[2J"
    run = Run(tmp_path / "run")
    session = runs.begin(run)
    runs.tell(run, session, host=evil, last_checkpoint=evil)
    for command in (["status"], ["history"], ["runs"]):
        with pytest.raises(SystemExit):
            main([*command, *([str(run.path)] if command != ["runs"] else [])])
        told = capsys.readouterr()
        assert not {"\x1b", "\x07"} & set(told.out + told.err)
