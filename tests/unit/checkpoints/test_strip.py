"""A stripped checkpoint can be merged, is never resumed from, and is never half stripped."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from leviathan_train.checkpoints import retention, strip
from leviathan_train.checkpoints import seal as seals
from leviathan_train.checkpoints import store as checkpoints
from leviathan_train.checkpoints.retention import Policy, plan
from leviathan_train.checkpoints.seal import SEAL
from leviathan_train.checkpoints.store import Read
from leviathan_train.config.load import load_config
from leviathan_train.errors import UsageError
from leviathan_train.launch import resume
from leviathan_train.merge import adapters
from leviathan_train.run.folder import Run
from support import shapes
from support.driver import leviathan

KEPT = [
    "README.md",
    "adapter_config.json",
    "adapter_model.safetensors",
    "leviathan.json",
    "tokenizer_config.json",
]


def made(folder: Path, *steps: int, shape: shapes.Shape = shapes.lora, sealed: bool = True) -> Run:
    for step in steps:
        shapes.make(folder, step, shape, sealed=sealed, evals=10)
    return Run(folder)


def stripped(run: Run) -> list[int]:
    return retention.carry_out(run, plan(checkpoints.scan(run), Policy(1, None, 0, strip=True)))


def states(run: Run, read: Read = Read.NEW) -> dict[int, str]:
    return {item.step: item.state for item in checkpoints.scan(run, read)}


@pytest.mark.parametrize("sealed", [True, False])
def test_what_would_go_keeps_what_a_merge_needs(tmp_path: Path, sealed: bool) -> None:
    run = made(tmp_path / "run", 10, 20, 30, sealed=sealed)
    before = {item.step: item for item in checkpoints.scan(run)}
    weights = (run.checkpoint(10) / "adapter_model.safetensors").read_bytes()
    assert stripped(run) == [10, 20]
    newest = "intact" if sealed else "unsealed"
    for read in Read:
        assert states(run, read) == {10: "weights", 20: "weights", 30: newest}
    assert shapes.files(run.checkpoint(10)) == KEPT
    assert (run.checkpoint(10) / "adapter_model.safetensors").read_bytes() == weights
    found = checkpoints.scan(run)[0]
    assert found.facts == before[10].facts and found.reason == checkpoints.WEIGHTS_ONLY
    assert found.modified == pytest.approx(before[10].modified, abs=0.01)
    assert adapters.choose(run, "10").label == "checkpoint-10"


def test_nothing_resumes_from_it(tmp_path: Path) -> None:
    run = made(tmp_path / "run", 10, 20)
    stripped(run)
    (tmp_path / "c.yaml").write_text(f"base_model: x\noutput_dir: {run.path}\n")
    config, found = load_config(tmp_path / "c.yaml"), checkpoints.scan(run)
    for choice in ("10", str(run.checkpoint(10))):
        with pytest.raises(UsageError, match="not intact: only its adapter weights were kept"):
            resume.choose(run, config, choice, found)
    shutil.rmtree(run.checkpoint(20))
    with pytest.raises(UsageError, match="no intact checkpoint"):
        resume.choose(run, config, "auto", checkpoints.scan(run))
    state = json.loads((run.checkpoint(10) / SEAL).read_text())
    assert state["seal"] == 2  # what version 0.1.0 takes for damaged


def test_a_changed_or_added_file_is_seen(tmp_path: Path) -> None:
    run = made(tmp_path / "run", 10, 20)
    stripped(run)
    config = run.checkpoint(10) / "adapter_config.json"
    config.write_text(config.read_text().replace("8", "9"))
    (found, _) = checkpoints.scan(run)
    assert found.state == "damaged" and "adapter_config.json has changed" in found.reason
    shutil.copy(config, run.checkpoint(10) / "more.safetensors")
    config.write_text(config.read_text().replace("9", "8"))
    assert checkpoints.scan(run)[0].reason == "more.safetensors was added after the save"


def test_an_interrupted_strip_is_finished_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = made(tmp_path / "run", 10, 20)
    item = checkpoints.scan(run)[0]
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)  # before the new seal is there
        with pytest.raises(OSError):
            strip.strip(run, item)
    assert states(run, Read.ALL)[10] == "intact"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)  # after it
        with pytest.raises(OSError):
            strip.strip(run, item)
    assert (run.checkpoint(10) / "optimizer.pt").exists()
    assert states(run)[10] == "weights"
    retention.sweep(run)
    assert shapes.files(run.checkpoint(10)) == KEPT
    assert states(run, Read.ALL) == {10: "weights", 20: "intact"}


def refuse(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


def test_what_has_no_adapter_goes_as_a_whole(tmp_path: Path) -> None:
    run = made(tmp_path / "full", 10, 20, shape=shapes.full)
    (item, _) = plan(checkpoints.scan(run), Policy(1, None, 0, strip=True))
    assert item.reasons == ("older than the newest, and it holds no adapter to keep",)
    assert stripped(run) == [10]
    assert states(run) == {20: "intact"}
    zero = made(tmp_path / "zero", 10, 20, shape=shapes.deepspeed)
    assert stripped(zero) == [10]
    assert shapes.files(zero.checkpoint(10)) == KEPT


def test_it_neither_counts_nor_is_deleted_by_a_training(tmp_path: Path) -> None:
    run = made(tmp_path / "run", 10, 20)
    stripped(run)
    made(run.path, 30)
    items = plan(checkpoints.scan(run), Policy(2))
    assert [(item.checkpoint.step, item.keep) for item in items] == [
        (10, True),
        (20, True),
        (30, True),
    ]
    assert items[0].reasons == ("only its adapter weights are left",)


def test_every_file_of_a_resume_is_known_by_its_name(tmp_path: Path) -> None:
    for shape in shapes.SHAPES.values():
        path = shapes.make(tmp_path, 10, shape)
        kept = {name for name in shapes.files(path) if not seals.only_for_resumes(name)}
        assert kept <= {*KEPT, "config.json", *kept_of_full(path)}
        shutil.rmtree(path)


def kept_of_full(path: Path) -> set[str]:
    return {name for name in shapes.files(path) if name.startswith("model") and "/" not in name}


def test_the_command_strips_tells_and_later_deletes(tmp_path: Path, env: dict[str, str]) -> None:
    made(tmp_path / "run", 10, 20, 30)

    def cleanup(*options: str, check: int = 0) -> str:
        words = ["checkpoints", "cleanup", "run", "--keep", "1", *options]
        done = leviathan(*words, cwd=tmp_path, env=env, check=check)
        return done.stdout if check == 0 else done.stderr

    told = cleanup("--strip", "--keep-best", "0", "--yes")
    assert told.startswith("Found 3 checkpoints. Will strip 2 to adapter weights.\n  strip   check")
    assert "  Stripping checkpoint-10 (" in told
    assert told.endswith("Cleanup complete. 3 checkpoints remaining.\n")
    listed = leviathan("checkpoints", "list", "run", cwd=tmp_path, env=env, check=0).stdout
    assert [line.split()[-1] for line in listed.splitlines()[2:4]] == ["weights", "weights"]
    assert leviathan("checkpoints", "verify", "run", cwd=tmp_path, env=env).returncode == 0
    assert "Will delete 0." in cleanup("--strip", "--yes")
    value = json.loads(cleanup("--yes", "--json"))
    assert (value["deleted"], value["stripped"]) == ([10, 20], [])
    assert "cannot be combined" in cleanup("--keep-best", "2", "--no-keep-best", check=2)
    assert "takes no option that keeps" in cleanup("--superseded", "--strip", check=2)
