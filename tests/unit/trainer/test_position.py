"""Where a training goes on in its data, on the same number of processes and on another."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from leviathan_train.trainer.position import Place, placed

STORED = {
    "epoch": 1,
    "batches": 24,
    "batches_per_epoch": 80,
    "gradient_accumulation_steps": 4,
    "micro_batch_size": 2,
}


def args(accumulation: int, micro: int = 2) -> SimpleNamespace:
    return SimpleNamespace(
        gradient_accumulation_steps=accumulation, per_device_train_batch_size=micro
    )


def test_on_as_many_processes_it_is_the_place_that_was_kept() -> None:
    assert placed(STORED, args(4), 1, 1) == Place(1, 24, 80, 20)
    old = {key: value for key, value in STORED.items() if key != "micro_batch_size"}
    assert placed(old, args(4), 2, 2) == Place(1, 24, 80, 20)  # sealed by an older version
    assert placed(STORED, args(2), 1, 1) is None


@pytest.mark.parametrize(
    ("then", "now", "accumulation", "batches", "per_epoch"),
    [(1, 2, 2, 12, 40), (1, 4, 1, 6, 20), (2, 1, 8, 48, 160), (2, 4, 2, 12, 40)],
)
def test_on_others_it_is_after_the_same_rows(
    then: int, now: int, accumulation: int, batches: int, per_epoch: int
) -> None:
    place = placed(STORED, args(accumulation), now, then)
    assert place
    assert (place.epoch, place.batches, place.batches_per_epoch) == (1, batches, per_epoch)
    assert place.batches * now == STORED["batches"] * then


@pytest.mark.parametrize(("accumulation", "micro", "now"), [(4, 2, 2), (4, 1, 2), (1, 2, 3)])
def test_steps_of_other_rows_have_no_place(accumulation: int, micro: int, now: int) -> None:
    assert placed(STORED, args(accumulation, micro), now, 1) is None


def test_a_place_that_cannot_be_divided_is_none() -> None:
    assert placed(STORED | {"batches": 25}, args(2), 2, 1) is None
