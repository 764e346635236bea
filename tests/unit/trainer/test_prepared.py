"""Tokenised rows: which folders may be used, and which must be rebuilt."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pytest

from leviathan_train.config.inputs import input_facts
from leviathan_train.config.load import Config
from leviathan_train.trainer import prepared


@pytest.fixture
def cfg(tmp_path: Path) -> Any:
    return SimpleNamespace(dataset_prepared_path=str(tmp_path / "prepared"))


def rows(cfg: Any, name: str) -> Path:
    """A folder as Axolotl leaves it."""
    folder = Path(cfg.dataset_prepared_path) / (name * 32)
    datasets.Dataset.from_dict({"input_ids": [[1, 2]]}).save_to_disk(folder)
    return folder


@pytest.mark.parametrize("lost", ["state.json", "dataset_info.json"])
def test_rows_that_a_kill_left_half_written_go(cfg: Any, lost: str) -> None:
    whole, half = rows(cfg, "a"), rows(cfg, "b")
    (half / lost).unlink()
    prepared.discard(cfg)
    assert whole.is_dir()
    assert not half.exists()


def test_of_several_splits_each_must_be_whole(cfg: Any) -> None:
    both = datasets.DatasetDict(
        {name: datasets.Dataset.from_dict({"input_ids": [[1]]}) for name in ("train", "test")}
    )
    folder = Path(cfg.dataset_prepared_path) / ("c" * 32)
    both.save_to_disk(folder)
    prepared.discard(cfg)
    assert folder.is_dir()
    (folder / "test/state.json").unlink()
    prepared.discard(cfg)
    assert not folder.exists()


def test_a_changed_file_makes_the_rows_of_every_config_stale(cfg: Any, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text("{}\n")
    dataset = {"path": str(data), "ds_type": "json"}
    config = Config(Path("a.yaml"), {"base_model": "m", "datasets": [dataset]})
    of_a, of_b = rows(cfg, "a"), rows(cfg, "b")
    prepared.remember(cfg, input_facts(config)["data"])
    assert not prepared.is_stale(cfg, config)
    data.write_text("{}\n{}\n")
    assert prepared.is_stale(cfg, config)
    # What a start does then: nothing old is left for another config that names the file.
    prepared.discard(cfg, [data])
    prepared.remember(cfg, input_facts(config, prepared.sources(cfg))["data"])
    assert not of_a.exists()
    assert not of_b.exists()
    assert not prepared.is_stale(cfg, config)


def note(cfg: Any, files: list[Path], *names: str) -> list[Path]:
    """Folders of rows that were prepared from these files."""
    before = prepared.folders(cfg)
    made = [rows(cfg, name) for name in names]
    prepared.note_files(cfg, before, files)
    return made


def test_rows_of_other_files_stay(
    cfg: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.jsonl", "b.jsonl", "c.jsonl", "more/1.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    (tmp_path / "link.jsonl").symlink_to("a.jsonl")
    (of_link,) = note(cfg, [Path("link.jsonl")], "a")
    (of_pattern,) = note(cfg, [Path("[ab].jsonl"), Path("c.jsonl")], "b")
    (of_folder,) = note(cfg, [tmp_path / "more"], "c")
    (of_c,) = note(cfg, [Path("c.jsonl")], "d")
    (unknown,) = note(cfg, [], "e")
    prepared.discard(cfg, [tmp_path / "a.jsonl"])
    assert [path.exists() for path in (of_link, of_pattern, of_folder, of_c, unknown)] == [
        *(False, False, True, True, False)
    ]
    prepared.discard(cfg, [Path("more/*.jsonl")])
    assert [path.exists() for path in (of_folder, of_c)] == [False, True]
    note(cfg, [Path("b.jsonl")], "a")
    noted = json.loads((Path(cfg.dataset_prepared_path) / "leviathan-files.json").read_text())
    assert noted.keys() == {"a" * 32, "d" * 32}, "what is gone is forgotten"


def test_two_trainings_that_prepare_rows_at_once_each_note_their_files(cfg: Any) -> None:
    before = prepared.folders(cfg)
    both = [rows(cfg, name) for name in "ab"]
    prepared.note_files(cfg, before, [Path("a.jsonl")])
    prepared.note_files(cfg, before, [Path("b.jsonl")])
    prepared.discard(cfg, [Path("b.jsonl")])
    assert not any(path.exists() for path in both)


def test_a_note_that_is_damaged_is_none(cfg: Any) -> None:
    one, two = rows(cfg, "a"), rows(cfg, "b")
    note_file = Path(cfg.dataset_prepared_path) / "leviathan-files.json"
    note_file.write_text(json.dumps({one.name: 5, two.name: [3]}))
    prepared.discard(cfg, [Path("data.jsonl")])
    assert not one.exists() and two.exists()


def test_what_is_no_folder_of_rows_stays(cfg: Any) -> None:
    rows(cfg, "a")
    mine = Path(cfg.dataset_prepared_path) / "mine"
    mine.mkdir()
    prepared.discard(cfg, [Path("data.jsonl")])
    assert mine.is_dir()
