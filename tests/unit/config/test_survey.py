"""What in the data will hurt, each by a file with the fault: its count and where it stands."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from leviathan_train.config import survey as surveys
from leviathan_train.config.data import Source
from leviathan_train.config.load import Config
from leviathan_train.config.survey import Judged, Survey, survey

LIMIT = 1000


def by_words(source: Source, values: Mapping[str, Any]) -> Judged:
    """A judge for whom each word is a token, and those of the answer count."""
    if values["output"] == "refuse me":
        raise ValueError("no such row")
    counted = len(values["output"].split())
    return Judged(counted + len(str(values["instruction"]).split()), counted)


def row(number: int, output: str = "an answer") -> dict[str, Any]:
    return {"instruction": f"question {number}", "input": "", "output": output}


def write(file: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return file


def look(file: Path, tests: Path | None = None, **more: Any) -> Survey:
    def entry(path: Path) -> dict[str, Any]:
        return {"path": str(path), "ds_type": "json", "type": "alpaca"}

    values = {"datasets": [entry(file)], "sequence_len": LIMIT, **more}
    if tests:
        values["test_datasets"] = [entry(tests)]
    return survey(Config(Path("a.yaml"), values), by_words, seconds=60)


def lines(file: Path, *numbers: int) -> list[str]:
    return [f"{file}, line {number}" for number in numbers]


def test_rows_without_a_fault_are_counted(tmp_path: Path) -> None:
    found = look(write(tmp_path / "a.jsonl", [row(n) for n in range(50)]))
    faults = (found.duplicates, found.shared, found.long, found.silent, found.refused)
    assert [fault.count for fault in faults] == [0] * 5
    assert (found.rows, found.entries, found.mean_tokens) == (50, {"datasets[0]": 50}, 4.0)


def test_rows_that_are_too_long_are_found(tmp_path: Path) -> None:
    long = {3, 20, 30, 40}
    rows = [row(n, "w " * (LIMIT if n in long else 9)) for n in range(50)]
    file = write(tmp_path / "a.jsonl", rows)
    found = look(file)
    assert (found.long.count, found.long.estimated) == (4, False)
    assert found.long.places == lines(file, 4, 21, 31)
    assert found.mean_tokens == 11  # of those that are trained on


def test_a_row_of_many_bytes_and_few_tokens_is_not_too_long(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", [row(1, "w" * 5 * LIMIT), row(2, "ä" * LIMIT)])
    assert look(file).long.count == 0


def test_rows_without_an_answer_are_found(tmp_path: Path) -> None:
    rows = [row(n, " " if n in {5, 7} else "yes") for n in range(50)]
    file = write(tmp_path / "a.jsonl", rows)
    found = look(file)
    assert (found.silent.count, found.silent.places) == (2, lines(file, 6, 8))


def test_the_same_row_twice_is_found_whatever_its_id(tmp_path: Path) -> None:
    rows = [{"id": n, **row(n % 47)} for n in range(50)]
    file = write(tmp_path / "a.jsonl", rows)
    found = look(file)
    assert found.duplicates.count == 3
    assert found.duplicates.places[0] == f"{file}, line 48 (as line 1)"


def test_chats_that_are_the_same_are_found(tmp_path: Path) -> None:
    chat = {"messages": [{"role": "user", "content": "hello"}]}
    file = write(tmp_path / "a.jsonl", [chat, chat])
    values = {"datasets": [{"path": str(file), "type": "chat_template"}]}
    found = survey(Config(Path("a.yaml"), values), None, unknown="no judge", seconds=60)
    assert (found.duplicates.count, found.unknown) == (1, "no judge")


def test_rows_that_are_trained_on_and_evaluated_are_found(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", [row(n) for n in range(50)])
    tests = write(tmp_path / "t.jsonl", [row(n) for n in (48, 49, 50)])
    found = look(file, tests)
    assert (found.rows, found.eval_rows, found.shared.count) == (50, 3, 2)
    assert found.shared.places[0] == f"{tests}, line 1 (as {file}, line 49)"


def test_rows_on_which_axolotl_fails_are_found_with_its_words(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", [row(n, "refuse me" if n == 9 else "y") for n in range(50)])
    found = look(file)
    assert (found.refused.count, found.refused.places) == (1, lines(file, 10))
    assert found.refusal == "ValueError: no such row"


def test_a_row_without_a_column_is_judged_as_it_is_trained_on(tmp_path: Path) -> None:
    short = {"input": "", "output": "an answer"}
    found = look(write(tmp_path / "a.jsonl", [row(1), short, row(2)]))
    assert found.lacking.places == lines(tmp_path / "a.jsonl", 2)
    assert (found.lacking.count, found.refused.count) == (1, 0)


def test_a_column_that_no_row_has_is_not_said_to_be_there_in_others(tmp_path: Path) -> None:
    wrong = {"question": "a", "output": "an answer"}
    assert look(write(tmp_path / "a.jsonl", [wrong, wrong])).lacking.count == 0


def test_of_many_rows_some_are_judged_and_the_count_is_an_estimate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surveys, "_MOST", 200)
    rows = [row(n, "w " * (LIMIT if n % 4 == 0 else LIMIT - 200)) for n in range(2000)]
    found = look(write(tmp_path / "a.jsonl", rows))
    assert found.long.estimated
    assert 300 < found.long.count < 700


def test_packs_are_counted_as_rows_are_packed(tmp_path: Path) -> None:
    """Rows of six tenths go alone, the short ones beside them."""
    rows = [row(n, "w " * (598 if n % 2 else 298)) for n in range(100)]
    found = look(write(tmp_path / "a.jsonl", rows))
    assert (found.packs, found.mean_tokens) == (0.5, 450)


def test_what_is_read_when_time_is_up_is_told(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", [row(n) for n in range(5000)])
    values = {"datasets": [{"path": str(file), "type": "alpaca"}]}
    found = survey(Config(Path("a.yaml"), values), by_words, seconds=0)
    assert (found.rows, found.whole) == (1000, False)


def test_a_survey_comes_back_from_json(tmp_path: Path) -> None:
    found = look(write(tmp_path / "a.jsonl", [row(1), row(1)]))
    assert Survey.from_json(json.loads(json.dumps(found.as_json()))) == found
