"""When a selftest counts: only its own pause is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from leviathan_train.errors import LeviathanError, Stopped
from leviathan_train.launch.selftest import Pauser, _train
from leviathan_train.run.folder import Run
from leviathan_train.run.records import Cause, End, Ending


class Ends:
    """A starter whose training ends as it is told to."""

    def __init__(self, run: Path, kind: Ending, cause: Cause) -> None:
        self.run = Run(run)
        self._end = End(kind, 5, None, "Ctrl+C", 0.0, cause)

    def plan(self) -> object:
        return object()

    def train(self, plan: object) -> End:
        return self._end


class Asked(Pauser):
    def start(self) -> None:
        self.asked.set()


class NotYet(Pauser):
    def start(self) -> None:
        pass


def starter(run: Path, kind: Ending, cause: Cause = Cause.PERSON) -> Any:
    return Ends(run, kind, cause)


def test_the_pause_that_it_asked_for_is_part_of_it(tmp_path: Path) -> None:
    paused = starter(tmp_path, Ending.PAUSED)
    assert _train(paused, Asked(Run(tmp_path), 5)).kind is Ending.PAUSED
    assert _train(starter(tmp_path, Ending.FINISHED)).kind is Ending.FINISHED


@pytest.mark.parametrize("kind", [Ending.PAUSED, Ending.STOPPED, Ending.KILLED])
def test_a_person_who_ends_it_gets_130_and_no_error(tmp_path: Path, kind: Ending) -> None:
    for pauser in (None, NotYet(Run(tmp_path), 5)):
        with pytest.raises(Stopped, match="stopped: Ctrl") as raised:
            _train(starter(tmp_path, kind), pauser)
        assert raised.value.exit_code == 130


def test_a_trainer_that_hangs_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(LeviathanError) as raised:
        _train(starter(tmp_path, Ending.KILLED, Cause.HUNG))
    assert raised.value.exit_code == 1
