"""What a training reads besides its config, and whether it is still the same."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from leviathan_train.config import inputs
from leviathan_train.config.inputs import DataFacts, changed_data, data_facts
from leviathan_train.config.load import Config
from leviathan_train.errors import UsageError


def check_inputs(config: Config) -> None:
    """Raise the first fault."""
    for fault in inputs.input_faults(config):
        raise fault


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"instruction": "a", "output": "b"}\n')
    return path


def config_of(path: Path) -> Config:
    return Config(path.parent / "c.yaml", {"datasets": [{"path": str(path), "type": "alpaca"}]})


def changed(path: Path, old: dict[str, Any]) -> list[Path]:
    return [found for found, _ in changed_data(config_of(path), json.loads(json.dumps(old)))]


def test_the_same_bytes_at_another_time_are_no_change(data: Path) -> None:
    old = data_facts(config_of(data))
    os.utime(data, (5, 5))
    assert changed(data, old) == []


def test_other_bytes_of_the_same_size_are_a_change(data: Path) -> None:
    old = data_facts(config_of(data))
    data.write_text(data.read_text().replace("b", "c"))
    assert changed(data, old) == [data]


def test_another_size_is_a_change_that_needs_no_reading(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = data_facts(config_of(data))
    monkeypatch.setattr(inputs, "_sha256", lambda path: pytest.fail("it was read"))
    assert changed(data, old) == []
    with data.open("a") as stream:
        stream.write("\n")
    assert changed(data, old) == [data]


def test_records_without_a_hash_are_judged_by_size_and_time(data: Path) -> None:
    old = {str(data): [data.stat().st_size, int(data.stat().st_mtime)]}
    assert changed(data, old) == []
    os.utime(data, (5, 5))
    assert changed(data, old) == [data]


def test_a_folder_of_files_counts_as_one(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    (folder / "train").mkdir(parents=True)
    for name in ("train/a.jsonl", "b.jsonl"):
        (folder / name).write_text(name)
    old = data_facts(config_of(folder))
    os.utime(folder / "b.jsonl", (5, 5))
    assert changed(folder, old) == []
    (folder / "b.jsonl").rename(folder / "c.jsonl")
    os.utime(folder / "c.jsonl")
    assert changed(folder, old) == [folder]


def test_what_is_known_is_not_read_again(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = data_facts(config_of(data))
    monkeypatch.setattr(inputs, "_sha256", lambda path: pytest.fail("it was read"))
    assert data_facts(config_of(data), known) == known


def test_a_missing_file_or_an_odd_record_is_passed_over(data: Path) -> None:
    gone = config_of(data.with_name("gone.jsonl"))
    assert data_facts(gone) == {}
    assert list(changed_data(gone, {str(data): [1, 2]})) == []
    records: tuple[object, ...] = (None, [], {}, {"bytes": "x"}, 3)
    for odd in records:
        assert DataFacts.from_json(odd) is None


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"x" * 2000)
    return folder


def refused(base: Path, **values: Any) -> str:
    rows = base.parent / "rows.jsonl"
    rows.write_text("{}")
    entry = {"path": str(rows), "type": "alpaca"}
    given = {"base_model": str(base), "datasets": [entry]} | values
    try:
        check_inputs(Config(base.parent / "c.yaml", given))
    except UsageError as error:
        return error.message
    return ""


def test_a_base_model_that_lacks_a_file_is_told_with_its_name(base: Path) -> None:
    assert refused(base) == ""
    for name, told in (
        ("config.json", "has no config.json"),
        ("model.safetensors", "has no weights"),
        ("tokenizer.json", "has no tokenizer"),
    ):
        kept = (base / name).rename(base.parent / name)
        assert told in refused(base)
        kept.rename(base / name)
    (base / "tokenizer.json").unlink()
    assert refused(base, tokenizer_config="org/other") == ""


def test_an_adapter_a_pointer_and_a_lost_shard_are_no_base_model(base: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model-2.safetensors is missing" in refused(base)
    (base / "model.safetensors.index.json").unlink()
    (base / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert "pointer of git-lfs" in refused(base)
    (base / "config.json").rename(base / "adapter_config.json")
    assert "is an adapter" in refused(base)


def test_a_chat_without_a_template_is_refused_and_one_with_a_template_is_not(base: Path) -> None:
    def told(**values: Any) -> str:
        entry = {"path": "x", "type": "chat_template"}
        given = {"base_model": str(base), "datasets": [entry]} | values
        try:
            inputs.check_chat_template(Config(base.parent / "c.yaml", given))
        except UsageError as error:
            return error.message
        return ""

    assert "has no chat template" in told()
    assert told(chat_template="chatml") == ""
    assert told(datasets=[{"path": "x", "type": "alpaca"}]) == ""
    (base / "tokenizer_config.json").write_text('{"chat_template": "..."}')
    assert told() == ""


def test_a_pattern_of_data_files_is_no_missing_file(base: Path) -> None:
    entry = {"path": "json", "data_files": f"{base.parent}/*.jsonl", "type": "alpaca"}
    assert refused(base, datasets=[entry]) == ""
    entry["data_files"] = f"{base.parent}/*.csv"
    assert "does not exist" in refused(base, datasets=[entry])


def test_a_data_file_that_is_not_there_is_told_with_the_one_that_is(base: Path) -> None:
    entry = {"path": str(base.parent / "rosw.jsonl"), "type": "alpaca"}
    rows = base.parent / "rows.jsonl"
    rows.write_text("{}")
    given = {"base_model": str(base), "datasets": [entry]}
    with pytest.raises(UsageError) as raised:
        check_inputs(Config(base.parent / "c.yaml", given))
    assert raised.value.hint == f"Did you mean {rows}?"
    entry["path"] = str(base.parent / "no/rows.jsonl")
    with pytest.raises(UsageError) as raised:
        check_inputs(Config(base.parent / "c.yaml", given))
    assert str(raised.value.hint).startswith(f"There is no folder {base.parent / 'no'}")
