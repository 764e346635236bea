"""A disk that fills up while a checkpoint is saved, on the real Axolotl and a real small disk."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from leviathan_train.checkpoints import retention, store
from leviathan_train.run.folder import Run
from leviathan_train.trainer import sealing
from support.demo import MakeConfig
from support.disks import disk_of, fill
from support.driver import leviathan, start, train
from support.forked import Forge

pytestmark = pytest.mark.train

OFTEN = {"save_steps": 6, "eval_steps": None, "val_set_size": 0, "max_steps": 36}
KEEP_ALL = {"save_total_limit": -1}


@pytest.fixture(scope="module")
def forge(env: dict[str, str]) -> Iterator[Forge]:
    with Forge(env) as server:
        yield server


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Path]:
    """A disk with room for three checkpoints of the demo."""
    with disk_of(tmp_path / "disk", "1m") as path:
        yield path


def states(run: Path) -> dict[int, str]:
    return {item.step: item.state for item in store.scan(Run(run), store.Read.ALL)}


def test_old_checkpoints_make_room_and_the_training_goes_on(
    forge: Forge, make_config: MakeConfig, tmp_path: Path, three: Path
) -> None:
    config = make_config(tmp_path, **OFTEN, save_total_limit=9, output_dir=str(three / "run"))
    done = forge.must_train(config)
    assert "No space left for checkpoint-24. Deleted to make room: checkpoint-6" in done.output
    left = states(done.run)
    assert max(left) == 36
    assert set(left.values()) == {"intact"}
    assert done.records("end.json")[-1]["kind"] == "finished"


def test_without_room_it_stops_with_the_last_checkpoint_intact_and_resumes_later(
    forge: Forge, make_config: MakeConfig, tmp_path: Path, three: Path
) -> None:
    config = make_config(tmp_path, **OFTEN | KEEP_ALL, output_dir=str(three / "run"))
    done = forge.train(config)
    assert done.code == 75, done.output[-3000:]
    assert "Training stops: no space left on the disk for checkpoint-24." in done.output
    assert states(done.run) == {6: "intact", 12: "intact", 18: "intact"}
    end = done.records("end.json")[-1]
    assert (end["kind"], end["cause"]) == ("crashed", "disk")
    assert (end["step"], end["checkpoint"]) == (18, "checkpoint-18")

    run = Run(done.run)
    retention.carry_out(run, retention.plan(store.scan(run), retention.Policy(1)))
    values = yaml.safe_load(config.read_text())
    values |= {"save_total_limit": 1, "resume_from_checkpoint": str(done.run / "checkpoint-18")}
    config.write_text(yaml.safe_dump(values))
    again = forge.must_train(config)
    assert states(again.run) == {36: "intact"}


def test_without_any_checkpoint_it_has_failed(
    forge: Forge, make_config: MakeConfig, tmp_path: Path
) -> None:
    with disk_of(tmp_path / "disk", "200k") as disk:
        config = make_config(tmp_path, **OFTEN, output_dir=str(disk / "run"))
        done = forge.train(config)
        assert done.code == 1, done.output[-3000:]
        assert "There is no intact checkpoint." in done.output
        assert states(done.run) == {}
        assert done.records("end.json")[-1]["cause"] == "disk"


def full_while_sealing() -> None:
    """In the trainer: large checkpoints, and a disk that is full while the first is sealed."""
    sealing.INLINE_BYTES = 0
    full_while_sealing_inline()


def full_while_sealing_inline() -> None:
    """In the trainer: a disk that is full for the moment in which the first seal is written."""
    write: Any = store.write_seal
    met: list[bool] = []

    def full(run: Run, path: Path, seal: store.Seal) -> Any:
        if met:
            return write(run, path, seal)
        met.append(True)
        ballast = fill(run.path.parent)
        try:
            return write(run, path, seal)
        finally:
            ballast.unlink()

    store.write_seal = full


@pytest.mark.parametrize(
    ("patch", "saved"),
    [("full_while_sealing_inline", [6, 12]), ("full_while_sealing", [7, 12])],
)
def test_what_could_not_be_sealed_is_saved_again_at_once(
    forge: Forge,
    make_config: MakeConfig,
    tmp_path: Path,
    small_disk: Path,
    patch: str,
    saved: list[int],
) -> None:
    run = small_disk / "run"
    config = make_config(tmp_path, **OFTEN | {"max_steps": 12}, output_dir=str(run))
    forge.must_train(config, patch=f"{__file__}:{patch}")
    left = states(run)
    assert [step for step, state in left.items() if state == "intact"] == saved
    assert set(left) <= {6, *saved}


def test_the_command_ends_with_75_and_says_what_to_type(
    make_config: MakeConfig, env: dict[str, str], tmp_path: Path, three: Path
) -> None:
    run = three / "run"
    config = make_config(tmp_path, **OFTEN | KEEP_ALL, output_dir=str(run))
    output = train(config, "--max-restarts", "2", env=env, expect=75, run=run)
    told = re.search(r"stopped: no space left on the disk.*\. checkpoint-(\d+) is intact\.", output)
    assert told, output
    assert max(states(run)) == int(told[1])
    assert "leviathan checkpoints cleanup" in output
    assert f"then resume with:  leviathan train {config}" in output
    assert "Restart 1" not in output
    assert set(states(run).values()) == {"intact"}


def test_a_pause_that_finds_no_room_keeps_the_last_checkpoint(
    make_config: MakeConfig, env: dict[str, str], tmp_path: Path, small_disk: Path
) -> None:
    run = small_disk / "run"
    endless = {"max_steps": 20_000, "num_epochs": 5000, "save_steps": 5, "eval_steps": None}
    config = make_config(tmp_path, **endless, val_set_size=0, output_dir=str(run))
    started = start(config, env=env, run=run)
    started.wait(lambda s: bool(s.get("last_checkpoint")) and s["phase"] == "training")
    fill(small_disk)
    started.signal()
    status, output = started.finish()
    assert status == 75, output
    assert "intact" in set(states(run).values())
    told = leviathan("status", str(run), "--json", cwd=tmp_path, env=env, check=0)
    assert json.loads(told.stdout)["last_checkpoint"]
