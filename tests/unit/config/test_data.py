"""What newcomers get wrong in their data is told with file, line, and what would fit."""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path
from typing import Any

import pytest
import zstandard

from leviathan_train.config import data, rows
from leviathan_train.config.load import Config

Row = dict[str, Any]
ALPACA: Row = {"instruction": "a", "output": "b"}
CHAT: Row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
SHARE: Row = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}


def jsonl(*found: Row) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in found).encode()


def told(
    folder: Path, name: str, content: bytes, entry: Row | None = None, **values: Any
) -> list[tuple[str, str]]:
    """Each fault of one data file with its hint."""
    file = folder / name
    file.write_bytes(content)
    entry = {"path": str(file), "type": "alpaca"} | (entry or {})
    config = Config(Path("c.yaml"), {"output_dir": "run", "datasets": [entry], **values})
    return [(str(fault), fault.hint) for fault in data.faults(config)]


@pytest.mark.parametrize(
    ("name", "content", "where", "hint"),
    [
        ("a.jsonl", b"", "a.jsonl is empty", "Put rows"),
        ("a.jsonl", b"\n\n", "a.jsonl holds no row", "Put rows"),
        ("a.json", b"[]", "holds no row", "Put rows"),
        ("a.jsonl", jsonl(ALPACA) * 2 + b'{"instruction": "a", "outp', "line 3 is not valid", ""),
        ("a.jsonl", jsonl(ALPACA) + b"\n" + b"{,}\n", "line 3 is not valid JSON", "Fix that line"),
        ("a.jsonl", b'{"instruction": "a"},\n{"b": 1},\n', "line 1 is not valid", "commas"),
        ("a.jsonl", jsonl(ALPACA) + b'{"instruction": "a",\n', "line 2 is not valid", "Fix that"),
        ("a.jsonl", b"{'instruction': 'a'}\n", "line 1 is not valid JSON", "double quotes"),
        ("a.json", b'\n ["a"]', "line 2 is a list, not an object", ""),
        ("a.json", b"\n [\n{}]", "line 2 is not valid JSON", "first character"),
        ("a.jsonl", b'"a"\n"b"\n', "line 1 is a text, not an object", "A row looks like"),
        ("a.json", b'[{"instruction": "a"}, 3]', "row 2 is a number, not an object", ""),
        ("a.json", b'[{"instruction": "a"},\n {"x": }]', "line 2 is not valid JSON", ""),
        ("a.jsonl", jsonl(ALPACA) + b'{"a": "\xe9"}\n', "line 2 is not UTF-8: byte 0xe9", "CP1252"),
        ("a.jsonl", '{"a": 1}\n'.encode("utf-16"), "line 1 is not UTF-8", "UTF-16"),
        ("a.json", b'[\n{"a": "\xe9"}]', "line 2 is not UTF-8", "iconv"),
        ("a.csv", b"instruction,output\n", "holds no row", ""),
        ("a.csv", b"instruction,output\na,b\nc,d,e\n", "line 3 has 3 cells", "quotes"),
        ("a.csv", b'instruction,output\na,b\na,"b\nc,d\n', "line 3 opens a quote", "Close it"),
        ("a.csv", "instruction,output\na,é\n".encode("latin-1"), "line 2 is not UTF-8", ""),
        ("a.csv", b"instruction;output\na;b\n", "has instruction;output", "by commas"),
        ("a.txt", b"a\nb\n", "wants the columns instruction and output;", "type: completion"),
        ("a.parquet", b"PAR1", "a.parquet cannot be read", "ds_type"),
        ("a.arrow", b"hello", "a.arrow cannot be read", "ds_type"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_with_its_line(
    tmp_path: Path, name: str, content: bytes, where: str, hint: str
) -> None:
    ((message, next_step),) = told(tmp_path, name, content)
    assert where in message
    assert hint in next_step
    assert str(tmp_path / name) in message
    assert "\n" not in message + next_step


@pytest.mark.parametrize(
    ("row", "entry", "wants", "fits"),
    [
        ({"question": "a", "answer": "b"}, {}, "instruction and output", "alpaca_chat.load_qa"),
        ({"instruction": "a", "response": "b"}, {}, "has instruction, response", "gpteacher"),
        (CHAT, {}, "type: alpaca wants", "type: chat_template"),
        (SHARE, {"type": "chat_template"}, "wants the column messages;", "conversations"),
        (SHARE, {"type": "alpaca"}, "has conversations", "{role: from, content: value}"),
        (ALPACA, {"type": "chat_template"}, "wants the column messages;", "type: alpaca"),
        (ALPACA, {"type": "completion"}, "wants the column text;", "type: alpaca"),
        ({"body": "a"}, {"type": "completion"}, "wants the column text;", "field: body"),
        ({"body": "a"}, {"type": "completion", True: "x"}, "wants the column text;", "field: body"),
        ({"text": "a"}, {"type": "completion", "field": "txt"}, "column txt;", "  field: text?"),
        (
            {"messages": [{"role": "user", "content": "a"}]},
            {"type": "chat_template", "field_messages": "mesages"},
            "mesages;",
            "Did you mean  field_messages: messages?",
        ),
        (
            {"ask": "a", "answer": "b"},
            {"type": {"field_instruction": "ask", "field_output": "xyz"}},
            "columns ask and xyz;",
            "Correct  field_output: xyz",
        ),
        ({"prompt": "a", "reply": "b"}, {}, "has prompt, reply", "Rename"),
        ({"query": "a", "answer": "b"}, {}, "has query, answer", "field_instruction: query"),
        ({"a": "x"}, {"type": {"field_instruction": "q", "field_output": "a"}}, "q and a;", ""),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, {}, "has prompt", "rl: dpo"),
    ],
)
def test_rows_of_another_shape_are_told_with_the_type_that_would_fit(
    tmp_path: Path, row: Row, entry: Row, wants: str, fits: str
) -> None:
    ((message, hint),) = told(tmp_path, "a.jsonl", jsonl(row) * 3, entry)
    assert wants in message and "datasets[0]" in message
    assert fits in hint


@pytest.mark.parametrize(
    ("row", "entry", "where"),
    [
        ({"messages": []}, {}, "line 2: column messages holds no message"),
        ({"messages": None}, {}, "line 2: column messages holds no list of messages"),
        ({"messages": "hello"}, {}, "line 2: column messages holds no list"),
        ({"messages": [{"content": "a"}]}, {}, "line 2: a message has no role; it has content"),
        ({"messages": SHARE["conversations"]}, {}, "line 2: a message has no role; it has from"),
        ({"messages": ["a"]}, {}, "line 2: a message has no role"),
        (ALPACA | {"output": 3}, {"type": "alpaca"}, "line 2: column output holds a number"),
        (ALPACA | {"output": {}}, {"type": "alpaca"}, "line 2: column output holds an object"),
    ],
)
def test_a_single_wrong_row_is_told_with_its_line(
    tmp_path: Path, row: Row, entry: Row, where: str
) -> None:
    good = ALPACA if entry else CHAT
    entry = entry or {"type": "chat_template"}
    ((message, _),) = told(tmp_path, "a.jsonl", jsonl(good, row, good), entry)
    assert where in message


@pytest.mark.parametrize(
    ("name", "content", "entry"),
    [
        ("a.jsonl", jsonl(ALPACA) * 3, {}),
        ("a.jsonl", b"\xef\xbb\xbf" + jsonl(ALPACA), {}),
        ("a.jsonl", jsonl(ALPACA) + b"\n\r\n" + jsonl(ALPACA), {}),
        ("a.jsonl", jsonl(ALPACA, {"instruction": "a", "output": None}), {}),
        ("a.json", json.dumps([ALPACA, ALPACA]).encode(), {}),
        ("a.json", json.dumps(ALPACA, indent=1).encode() * 3, {}),
        ("a.json", b'["a", "b"]', {"type": "completion"}),
        ("a.jsonl.gz", gzip.compress(jsonl(ALPACA)), {}),
        ("a.csv", b'instruction,output\n"a, b","c\nd"\n\ne\n', {}),
        ("a.csv", b'instruction,output\ra,b\r\n\rc,"d\re"\r', {}),
        ("a.txt", b"a\nb", {"type": "completion"}),
        ("a.jsonl", jsonl(CHAT), {"type": "chat_template"}),
        ("a.jsonl", jsonl({"messages": json.dumps(CHAT["messages"])}), {"type": "chat_template"}),
        (
            "a.jsonl",
            jsonl(SHARE),
            {
                "type": "chat_template",
                "field_messages": "conversations",
                "message_property_mappings": {"role": "from", "content": "value"},
            },
        ),
        ("a.jsonl", jsonl({"input_ids": [1], "attention_mask": [1], "labels": [1]}), {}),
        ("a.jsonl", jsonl({"x": 1}), {"type": "my_module.my_strategy"}),
        ("a.dat", jsonl({"x": 1}), {"type": None}),
    ],
)
def test_what_axolotl_reads_raises_no_alarm(
    tmp_path: Path, name: str, content: bytes, entry: Row
) -> None:
    assert told(tmp_path, name, content, entry) == []


def test_a_plugin_of_others_may_read_rows_in_its_own_way(tmp_path: Path) -> None:
    content = jsonl({"x": "y"})
    assert told(tmp_path, "a.jsonl", content)
    assert told(tmp_path, "a.jsonl", content, plugins=["mine.Loader"]) == []


def test_each_file_of_a_folder_and_of_a_pattern_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(jsonl(ALPACA))
    (folder / "b.jsonl").write_bytes(b"{,}\n")
    for entry in (
        {"path": "rows", "type": "alpaca"},
        {"path": "json", "data_files": "rows/*.jsonl", "type": "alpaca"},
        {"path": "rows", "data_files": ["rows/a.jsonl", "rows/b.jsonl"], "type": "alpaca"},
    ):
        config = Config(Path("c.yaml"), {"output_dir": "run", "datasets": [entry]})
        (fault,) = data.faults(config)
        assert "b.jsonl, line 1" in str(fault)


def test_parquet_and_arrow_are_judged_by_their_columns(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"question": ["a"], "answer": ["b"]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pyarrow.ipc.new_stream(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table)
    for name in ("a.parquet", "a.arrow"):
        content = (tmp_path / name).read_bytes()
        ((message, hint),) = told(tmp_path, name, content)
        assert "has question, answer" in message and "alpaca_chat.load_qa" in hint
        assert told(tmp_path, name, content, {"type": "alpaca_chat.load_qa"}) == []
        entry = {"path": str(tmp_path / name), "type": "alpaca"}
        config = Config(Path("c.yaml"), {"output_dir": "run", "datasets": [entry]})
        assert list(data.faults(config, 0.0)) == [], "no half second at each resume"


def test_of_a_long_file_the_first_rows_are_read_and_check_reads_all(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(jsonl(ALPACA) * 2000 + b"{\n")
    entry = {"path": str(file), "type": "alpaca"}
    config = Config(Path("c.yaml"), {"output_dir": "run", "datasets": [entry]})
    assert list(data.faults(config, 0.0)) == []
    (fault,) = data.faults(config)
    assert "line 2001" in str(fault)
    file.write_bytes(b"{\n")
    assert list(data.faults(config, 0.0))


def test_a_hundred_thousand_rows_take_seconds_at_most(tmp_path: Path) -> None:
    row = ALPACA | {"output": "word " * 100}
    file = tmp_path / "a.jsonl"
    file.write_bytes(jsonl(row) * 100_000)
    began = time.monotonic()
    assert sum(1 for _ in rows.read(file, "json")) == 100_000
    assert time.monotonic() - began < 30


def test_an_evaluation_that_takes_every_row_is_told(tmp_path: Path) -> None:
    three = jsonl(ALPACA) * 3
    ((message, hint),) = told(tmp_path, "a.jsonl", three, val_set_size=3)
    assert "c.yaml: val_set_size: 3 leaves none to train on of 3 rows." in message
    assert "0.05" in hint
    chat = {"type": "chat_template"}
    ((message, _),) = told(tmp_path, "a.jsonl", jsonl(CHAT), chat, val_set_size=2)
    assert "of 1 row." in message
    for size in (2, 0.5, 0, None):
        assert told(tmp_path, "a.jsonl", three, val_set_size=size) == []


def test_an_evaluation_is_not_judged_where_the_rows_cannot_be_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faults(*named: Row) -> list[str]:
        values = {"output_dir": "run", "datasets": list(named), "val_set_size": 100}
        return [str(fault) for fault in data.faults(Config(Path("c.yaml"), values))]

    alpaca = {"type": "alpaca"}
    file = tmp_path / "a.jsonl"
    file.write_bytes(jsonl(ALPACA))
    packed = tmp_path / "a.jsonl.zst"
    packed.write_bytes(zstandard.compress(jsonl(ALPACA) * 1000))
    folder = tmp_path / "folder"
    (folder / "train").mkdir(parents=True)
    (folder / "a.jsonl").write_bytes(jsonl(ALPACA))
    (folder / "train/b.jsonl").write_bytes(jsonl(ALPACA) * 1000)
    text = tmp_path / "a.txt"
    text.write_text("one row of text, of which Axolotl makes many\n")
    assert faults() == []
    assert faults({"path": str(packed)} | alpaca) == []
    assert faults({"path": str(folder)} | alpaca) == []
    assert faults({"path": str(text), "type": "completion"}) == []
    assert faults({"path": str(file), "ds_type": "xml"} | alpaca) == []
    assert faults({"path": str(file)} | alpaca, {"path": "org/hub"} | alpaca) == []
    monkeypatch.setattr(rows, "_WHOLE", 10)
    whole = tmp_path / "a.json"
    whole.write_text(json.dumps([ALPACA]))
    assert faults({"path": str(whole)} | alpaca) == []
