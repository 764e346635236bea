"""The same mistake ends every command in the same way: exit status 2, a line or two, no output."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from leviathan_train.cli import main
from leviathan_train.merge.output import is_model
from support import shapes
from support.demo import MakeConfig

Words = tuple[str, ...]

READING: list[Words] = [
    ("status",),
    ("history",),
    ("logs",),
    ("plot", "--output", "plot.html"),
    ("checkpoints", "list"),
    ("checkpoints", "latest"),
    ("checkpoints", "best"),
    ("checkpoints", "show"),
    ("checkpoints", "verify"),
    ("checkpoints", "export", "--output", "numbers.json"),
]
CHANGING: list[Words] = [
    ("pause",),
    ("save",),
    ("stop",),
    ("stop", "--now"),
    ("checkpoints", "cleanup", "--keep", "2", "--yes"),
    ("checkpoints", "cleanup", "--superseded", "--yes"),
    ("checkpoints", "reseal", "--step", "10", "--yes"),
    ("checkpoints", "push", "--mirror", "copies"),
    ("merge",),
]
OF_A_RUN = [*READING, *CHANGING]
OF_A_CONFIG: list[Words] = [("train",), ("train", "--dry-run"), ("check",), ("selftest",)]
OF_A_STEP: list[Words] = [
    ("checkpoints", "show", "--step", "77"),
    ("checkpoints", "verify", "--step", "77"),
    ("checkpoints", "reseal", "--step", "77"),
    ("checkpoints", "push", "--step", "77", "--mirror", "copies"),
    ("merge", "--checkpoint", "77"),
    ("train", "--resume", "77"),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ended(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Exit status and what was told of the mistake."""
    with pytest.raises(SystemExit) as exit_:
        main(list(words))
    streams = capsys.readouterr()
    told = streams.out if words[0] == "check" else streams.err
    assert "Traceback" not in streams.err
    assert isinstance(exit_.value.code, int)
    return exit_.value.code, told


@pytest.mark.parametrize("words", OF_A_RUN, ids=" ".join)
def test_no_such_run(folder: Path, capsys: pytest.CaptureFixture[str], words: Words) -> None:
    (folder / "notes").mkdir()
    (folder / "notes" / "of mine.txt").write_text("not a run")
    for target, told in {
        "nothing": "No run 'nothing'",
        "gone/": "No run 'gone/'",
        "notes": "notes is not a run",
    }.items():
        status, error = ended(capsys, *words, target)
        assert (status, told in error) == (2, True), error
    assert [path.name for path in folder.iterdir()] == ["notes"]


@pytest.mark.parametrize("words", OF_A_RUN, ids=" ".join)
def test_a_checkpoint_is_not_a_run(
    folder: Path, capsys: pytest.CaptureFixture[str], words: Words
) -> None:
    shapes.make(folder / "run", 10)
    status, error = ended(capsys, *words, "run/checkpoint-10")
    assert status == 2
    assert "run/checkpoint-10 is a checkpoint, not a run." in error
    assert "Name its run: run. " in error


@pytest.mark.parametrize("words", [*OF_A_RUN, *OF_A_CONFIG], ids=" ".join)
def test_a_config_that_cannot_be_used(
    folder: Path, capsys: pytest.CaptureFixture[str], words: Words
) -> None:
    (folder / "damaged.yaml").write_text("output_dir: run\n a: [\n")
    (folder / "list.yaml").write_text("- a\n")
    (folder / "binary.yaml").write_bytes(b"output_dir: \xff\xfe\n")
    (folder / "file.yaml").write_text("output_dir: list.yaml\n")
    (folder / "nowhere.yaml").write_text("base_model: x\n")
    for target, told in {
        "damaged.yaml": "damaged.yaml, line 2, column 3: not valid YAML",
        "list.yaml": "list.yaml is not a mapping",
        "binary.yaml": "Cannot read binary.yaml",
        "file.yaml": "output_dir list.yaml is a file",
        "nowhere.yaml": "output_dir is missing",
        "missing.yaml": "No config at missing.yaml",
    }.items():
        status, error = ended(capsys, *words, target)
        assert (status, told in error) == (2, True), error


@pytest.mark.parametrize("words", OF_A_RUN, ids=" ".join)
def test_a_config_whose_run_was_never_begun_or_is_gone(
    folder: Path, capsys: pytest.CaptureFixture[str], words: Words
) -> None:
    (folder / "mine.yaml").write_text("output_dir: out/run\n")
    status, error = ended(capsys, *words, "mine.yaml")
    assert status == 2
    assert str(folder / "out/run") in error and "leviathan train mine.yaml" in error


@pytest.mark.parametrize("words", OF_A_STEP, ids=" ".join)
def test_no_such_checkpoint(
    make_config: MakeConfig, folder: Path, capsys: pytest.CaptureFixture[str], words: Words
) -> None:
    target = make_config(folder)
    shapes.make(folder / "run", 10)
    status, error = ended(capsys, *words, str(target))
    assert status == 2
    assert "run has no checkpoint of step 77." in error and "10" in error


@pytest.mark.parametrize("words", OF_A_CONFIG, ids=" ".join)
def test_a_key_that_axolotl_does_not_know(
    make_config: MakeConfig, folder: Path, capsys: pytest.CaptureFixture[str], words: Words
) -> None:
    target = make_config(folder, learning_rat=0.1)
    status, error = ended(capsys, *words, str(target))
    assert status == 2
    assert "learning_rat" in error and "learning_rate" in error
    assert not (folder / "run").exists()


def test_a_merge_that_cannot_be_is_refused_before_it_asks_to_replace_the_old_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shapes.make(folder / "run", 10)
    model = folder / "models/run-merged"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"")
    assert is_model(model)
    asked: list[str] = []
    monkeypatch.setattr("leviathan_train.cli.merge.confirm", asked.append)
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    status, error = ended(capsys, "merge", "run", "--checkpoint", "77")
    assert (status, asked) == (2, []) and "no checkpoint of step 77" in error
