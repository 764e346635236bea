"""When the disk would be full: the saves to come, less what retention deletes meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from leviathan_train.checkpoints import store
from leviathan_train.checkpoints.store import Checkpoint, Facts
from leviathan_train.config.load import Config
from leviathan_train.launch.disk import Forecast, forecast, last_step
from leviathan_train.run.folder import Run
from support import runs, shapes

SIZE = 100
LONG: dict[str, Any] = {"save_steps": 10, "max_steps": 1000, "save_total_limit": 3}


def checkpoint(step: int, state: Any = "intact") -> Checkpoint:
    facts = Facts(step, max_steps=1000)
    return Checkpoint(Path(f"checkpoint-{step}"), step, facts, state, "", SIZE, 0.0)


def look(
    run: Path, free: int, *steps: int, newer: tuple[int, ...] = (), **values: Any
) -> Forecast | None:
    config = Config(Path("c.yaml"), LONG | values)
    found = [checkpoint(step) for step in (*steps, *newer)]
    return forecast(config, Run(run), found, found[: len(steps)], free)


@pytest.mark.parametrize(
    ("steps", "values", "needed"),
    [
        ((10,), {}, 3),  # three are kept, and one more is there until the oldest goes
        ((10, 20, 30), {}, 1),
        ((10, 20, 30), {"val_set_size": 0.1}, 2),  # the best stays besides
        ((10, 20, 30), {"val_set_size": 0.1, "leviathan_keep_best": False}, 1),
        ((10, 20, 30), {"leviathan_keep_every": 250}, 4),  # 250, 500, 750
        ((10,), {"save_total_limit": None}, 4),
        ((10,), {"save_total_limit": -1, "max_steps": 100}, 9),
        ((980,), {}, 2),
        ((1000,), {}, 3),  # trained on: to where is not known
        ((10,), {"max_steps": None, "save_steps": 0.1}, 3),
    ],
)
def test_what_is_needed_is_what_is_held_at_once_at_most(
    tmp_path: Path, steps: tuple[int, ...], values: dict[str, Any], needed: int
) -> None:
    found = look(tmp_path, 10_000, *steps, **values)
    assert found
    assert (found.needed, found.full_after) == (needed * SIZE, None)
    assert f"need up to {needed * SIZE}B more." in found.told()


def test_the_save_that_fills_the_disk_is_named_by_step_and_time(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    session = runs.begin(run)
    found = look(run.path, 250, 10)
    assert found
    assert (found.full_after, found.full_at, found.seconds) == (3, 40, None)
    assert found.told().endswith("need up to 300B more: the disk would be full at step 40.")
    runs.tell(run, session, steps_per_second=0.01)
    timed = look(run.path, 250, 10)
    assert timed
    assert timed.seconds == pytest.approx(3000)
    assert timed.told().endswith("the disk would be full at step 40, in about 50m 00s.")
    often = look(run.path, 250, 10, leviathan_save_minutes=5)  # three steps at this speed
    assert often
    assert often.full_at == 18


def test_one_more_checkpoint_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    full = look(tmp_path, SIZE - 1, 10)
    assert full
    assert full.is_refused
    assert full.told() == (
        "99B free; the next checkpoint needs 100B (as seen in this run): the disk would be full."
    )
    fits = look(tmp_path, SIZE, 10)
    assert fits
    assert not fits.is_refused


def test_what_is_set_aside_is_never_deleted_for_room(tmp_path: Path) -> None:
    found = look(tmp_path, 10_000, 10, newer=(20, 30))
    assert found
    assert found.needed == 3 * SIZE
    over = look(tmp_path, 10_000, newer=(10, 20))  # --resume never
    assert over
    assert over.needed == 4 * SIZE


def test_without_an_interval_saves_are_counted(tmp_path: Path) -> None:
    values: dict[str, Any] = {"save_steps": None, "max_steps": None}
    config = Config(Path("c.yaml"), LONG | values)
    one = Checkpoint(Path("checkpoint-10"), 10, Facts(10), "intact", "", SIZE, 0.0)
    found = forecast(config, Run(tmp_path), [one], [one], 150)
    assert found
    assert (found.full_after, found.full_at) == (2, None)
    assert found.told().endswith("the disk would be full with the 2. save.")


def test_a_size_that_nothing_tells_is_not_guessed(tmp_path: Path) -> None:
    config = Config(Path("c.yaml"), {"base_model": "none/such"})
    assert forecast(config, Run(tmp_path), [], [], 0) is None


@pytest.mark.parametrize(
    ("changed", "known"),
    [
        ({}, 20_000),
        ({"learning_rate": 1e-5}, 20_000),
        ({"max_steps": 30}, 30),
        ({"num_epochs": 2}, None),
        ({"micro_batch_size": 8}, None),
        ({"gradient_accumulation_steps": 4}, None),
    ],
)
def test_a_checkpoint_tells_the_last_step_only_of_a_training_of_the_same_length(
    tmp_path: Path, changed: dict[str, Any], known: int | None
) -> None:
    values = {"num_epochs": 1, "micro_batch_size": 2}
    path = shapes.make(tmp_path / "run", 10)
    shapes.seal(path, config=values)
    found = store.scan(Run(tmp_path / "run"))
    assert last_step(Config(Path("c.yaml"), values | changed), found) == known
