"""Run folders as no program leaves them: every command answers, or refuses in a line or two."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from faults import places
from faults.results import Try
from leviathan_train.run.folder import Run
from support.demo import MakeConfig

Place = Callable[[Run, Path], list[Try]]


@pytest.fixture
def config(make_config: MakeConfig, tmp_path: Path) -> Path:
    return make_config(tmp_path)


def problems(config: Path, place: Place) -> list[Try]:
    with places.run_of_all(config) as (run, its_config):
        tries = place(run, its_config)
    assert tries
    return [one for one in tries if not one.survived]


def test_garbage_in_a_file_of_ours_breaks_no_command(config: Path) -> None:
    assert not problems(config, places.garbled)


@pytest.mark.slow
def test_garbage_of_every_kind_in_every_file_breaks_no_command(config: Path) -> None:
    assert not problems(config, lambda run, its: places.garbled(run, its, thorough=True))


def test_a_lock_is_taken_from_the_dead_alone(config: Path) -> None:
    assert not problems(config, lambda run, its: places.locks(run))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_run_that_may_only_be_read_is_read(config: Path) -> None:
    assert not problems(config, places.written_never)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_run_of_another_user_is_read_and_left_as_it_is(config: Path) -> None:
    assert not problems(config, places.of_others)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("faketime") is None, reason="faketime is not installed")
def test_a_clock_that_was_set_breaks_no_command(config: Path) -> None:
    assert not problems(config, places.clocks)
