"""Signs of life between machines: who is silent, and who only seems so."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from leviathan_train.run.liveness import HEARTBEAT_LOST
from leviathan_train.run.records import Cause, End, Ending
from leviathan_train.run.session import Session
from leviathan_train.trainer.beats import EVERY, Beats


class Machines:
    """Two machines with one clock of their own."""

    def __init__(self, folder: Path) -> None:
        self.now = 0.0
        self.session = Session(folder)
        folder.mkdir()
        self.both = [
            Beats(self.session, number, 2, beats=True, clock=lambda: self.now) for number in (0, 1)
        ]

    def pass_time(
        self, seconds: float, *, of: tuple[int, ...] = (0, 1), step: float = EVERY
    ) -> str:
        """Let time pass for some of them; what the first one of them says at last."""
        told, end = "", self.now + seconds
        while self.now < end and not told:
            self.now += step
            for number in of:
                said = self.both[number].look()
                beat = self.session.beat_file(number)
                if beat.exists():  # as fine as the test needs it
                    os.utime(beat, ns=(0, int(self.now * 1e9)))
                told = told or (said if number == of[0] else "")
        return told


@pytest.fixture
def machines(tmp_path: Path) -> Machines:
    return Machines(tmp_path / "session")


def test_two_that_live_hear_each_other(machines: Machines) -> None:
    assert machines.pass_time(1000) == ""


def test_one_that_falls_silent_is_missed(machines: Machines) -> None:
    machines.pass_time(20)
    before = machines.now
    assert machines.pass_time(1000, of=(0,)) == "machine 1 gave no sign of life for 120 s"
    assert HEARTBEAT_LOST <= machines.now - before < HEARTBEAT_LOST + 3 * EVERY


def test_one_that_took_leave_is_not_missed(machines: Machines) -> None:
    machines.pass_time(20)
    machines.both[1].stop()
    assert machines.pass_time(1000, of=(0,)) == ""


def test_one_that_has_not_begun_is_not_missed(machines: Machines) -> None:
    assert machines.pass_time(1000, of=(0,)) == ""


def test_who_slept_takes_nobody_for_dead(machines: Machines) -> None:
    """A machine or a disk that stood still for an hour has heard nothing, and proves nothing."""
    machines.pass_time(20)
    machines.now += 3600
    assert machines.both[0].look() == ""
    assert machines.pass_time(30) == ""


@pytest.mark.parametrize("kind", [Ending.CRASHED, Ending.KILLED])
def test_an_end_elsewhere_is_not_outlived(machines: Machines, kind: Ending) -> None:
    machines.pass_time(20)
    machines.session.close(End(kind, 3, None, "power", 0.0, Cause.DIED))
    assert machines.pass_time(100) == "the session has ended: power"


def test_a_pause_takes_the_time_it_takes(machines: Machines) -> None:
    machines.pass_time(20)
    machines.session.close(End(Ending.PAUSED, 3, "checkpoint-3", "Ctrl+C", 0.0, Cause.PERSON))
    assert machines.pass_time(1000) == ""


def test_one_machine_gives_no_signs(tmp_path: Path) -> None:
    session = Session(tmp_path)
    alone = Beats(session, 0, 1, beats=True, clock=lambda: 1000.0)
    assert alone.look() == ""
    assert not list(tmp_path.iterdir())
