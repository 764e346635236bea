"""A checkpoint that was edited on purpose can be trusted again, a broken one can not."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from leviathan_train.checkpoints import reseal, seal
from leviathan_train.checkpoints import store as checkpoints
from leviathan_train.checkpoints.store import SEAL, Checkpoint
from leviathan_train.errors import LeviathanError
from leviathan_train.run.folder import Run
from leviathan_train.run.records import Launch, Phase, Status
from leviathan_train.system import processes
from leviathan_train.system.files import write_json
from support import shapes


def look(path: Path) -> Checkpoint:
    return checkpoints.inspect(Run(path.parent), path, checkpoints.Read.ALL)


def edit(path: Path) -> None:
    """The guide's "manually fix adapter_config.json"."""
    (path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 16}))


def test_what_was_edited_is_shown_and_sealed_again_with_all_else_kept(tmp_path: Path) -> None:
    path = shapes.make(tmp_path, 100, sealed=True)
    before = seal.read(path)
    edit(path)
    (path / "README.md").unlink()
    assert reseal.changes(look(path)) == [
        "README.md is missing",
        "adapter_config.json has 30 bytes instead of 29",
    ]
    after = reseal.reseal(Run(tmp_path), look(path))
    assert look(path).state == "intact"
    for key in ("facts", "seconds_trained", "versions", "config", "world_size"):
        assert getattr(after, key) == getattr(before, key)
    assert after.trainer == {**before.trainer, "edited": ["README.md", "adapter_config.json"]}
    (path / "optimizer.pt").write_bytes((path / "scheduler.pt").read_bytes())
    again = reseal.reseal(Run(tmp_path), look(path))
    assert again.trainer["edited"] == ["README.md", "adapter_config.json", "optimizer.pt"]
    assert set(before.files) - set(after.files) == {"README.md"}


def test_nothing_changed_means_nothing_to_do(tmp_path: Path) -> None:
    assert reseal.changes(look(shapes.make(tmp_path, 100, sealed=True))) == []


def test_a_checkpoint_of_plain_axolotl_can_be_sealed(tmp_path: Path) -> None:
    path = shapes.make(tmp_path, 100, evals=50)
    assert reseal.changes(look(path)) == ["it has no seal; its files are sound by structure"]
    reseal.reseal(Run(tmp_path), look(path))
    found = look(path)
    assert (found.state, found.facts.eval_loss) == ("intact", 1.01)


def test_an_interrupted_save_is_named_as_one_before_it_is_sealed(tmp_path: Path) -> None:
    path = shapes.make(tmp_path, 100)
    Run(tmp_path).begin_save(path.name)
    assert "interrupted" in reseal.changes(look(path))[0]
    reseal.reseal(Run(tmp_path), look(path))
    assert look(path).state == "intact"


@pytest.mark.parametrize("name", ["optimizer.pt", "adapter_model.safetensors", "rng_state.pth"])
@pytest.mark.parametrize("fault", ["deleted", "emptied"])
def test_a_broken_checkpoint_is_refused_and_stays_as_it_was(
    tmp_path: Path, name: str, fault: str
) -> None:
    path = shapes.make(tmp_path, 100, sealed=True)
    (path / name).unlink() if fault == "deleted" else os.truncate(path / name, 0)
    before = (path / SEAL).read_bytes()
    with pytest.raises(LeviathanError, match=f"cannot be sealed: .*{name}"):
        reseal.reseal(Run(tmp_path), look(path))
    assert (path / SEAL).read_bytes() == before


def test_a_checkpoint_of_another_step_is_refused(tmp_path: Path) -> None:
    path = shapes.make(tmp_path, 100, sealed=True).rename(tmp_path / "checkpoint-200")
    assert reseal.changes(look(path)) == [f"{SEAL} is of step 100"]
    with pytest.raises(LeviathanError, match="of step 100"):
        reseal.reseal(Run(tmp_path), look(path))


def test_what_a_training_may_be_writing_is_refused(tmp_path: Path) -> None:
    path = shapes.make(tmp_path, 100)
    run = Run(tmp_path)
    session = run.open_session(Launch(), role="rank0")
    status = Status("run", Phase.SAVING, os.getpid(), processes.hostname(), updated=time.time())
    write_json(session.status_file, asdict(status))
    with pytest.raises(LeviathanError, match="is training"):
        reseal.reseal(run, look(path))
