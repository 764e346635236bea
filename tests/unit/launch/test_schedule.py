"""Windows of the day and restarts, with a clock that the test turns."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest

from leviathan_train.errors import UsageError
from leviathan_train.launch.schedule import TimeLimit, supervise
from leviathan_train.launch.window import Window
from leviathan_train.run.records import Cause, End, Ending, Launch


@dataclass
class Clock:
    time: datetime

    def now(self) -> datetime:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)

    def wait(self, until: float) -> None:
        self.time = datetime.fromtimestamp(until)


def end(kind: Ending, step: int | None = None, cause: Cause = Cause.PERSON) -> End:
    return End(kind, step, None, "", 0.0, cause)


def test_a_window_may_pass_midnight() -> None:
    window = Window.parse("20:00-08:00")
    day = datetime(2026, 3, 4)
    assert window.closes(day.replace(hour=23)) == datetime(2026, 3, 5, 8)
    assert window.closes(day.replace(hour=3)) == datetime(2026, 3, 4, 8)
    assert window.closes(day.replace(hour=8)) is None
    assert window.opens(day.replace(hour=12)) == datetime(2026, 3, 4, 20)
    assert window.opens(day.replace(hour=21)) == datetime(2026, 3, 5, 20)


@pytest.mark.parametrize("text", ["20:00", "20-08", "08:00-08:00", "25:00-08:00", "a-b"])
def test_what_is_no_window_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Window.parse(text)


def test_training_goes_on_night_after_night_until_it_is_finished() -> None:
    clock = Clock(datetime(2026, 3, 4, 12))
    nights: list[tuple[datetime, datetime]] = []
    told: list[str] = []

    def start(limit: TimeLimit) -> End:
        assert limit.at is not None
        nights.append((clock.time, datetime.fromtimestamp(limit.at)))
        if len(nights) == 3:
            return end(Ending.FINISHED, 30)
        clock.time = datetime.fromtimestamp(limit.at) - timedelta(minutes=1)
        return end(Ending.PAUSED, 10 * len(nights), Cause.DEADLINE)

    last = supervise(
        start, told.append, window=Window.parse("20:00-08:00"), now=clock.now, wait=clock.wait
    )
    assert last.kind == "finished"
    assert [begin.hour for begin, _ in nights] == [20, 20, 20]
    assert [close.day for _, close in nights] == [5, 6, 7]
    assert "waiting until 2026-03-04 20:00" in told[0]


def test_who_ends_the_waiting_ends_the_window() -> None:
    asked = end(Ending.STOPPED)
    last = supervise(
        lambda limit: end(Ending.FINISHED),
        lambda line: None,
        window=Window.parse("20:00-08:00"),
        now=Clock(datetime(2026, 3, 4, 12)).now,
        wait=lambda until: asked,
    )
    assert last is asked


def test_the_end_of_the_time_ends_the_window() -> None:
    clock, starts = Clock(datetime(2026, 3, 4, 22)), []

    def start(limit: TimeLimit) -> End:
        assert limit.at is not None
        starts.append(limit.at)
        clock.time = datetime.fromtimestamp(limit.at)
        return end(Ending.PAUSED, 5, Cause.DEADLINE)

    last = supervise(
        start,
        lambda line: None,
        limit=TimeLimit(at=datetime(2026, 3, 5, 8).timestamp()),
        window=Window.parse("20:00-06:00"),
        now=clock.now,
        wait=clock.wait,
    )
    assert last.kind == "paused"
    assert starts == [datetime(2026, 3, 5, 6).timestamp()]


def test_a_pause_by_a_person_ends_the_window_too() -> None:
    clock = Clock(datetime(2026, 3, 4, 22))
    last = supervise(
        lambda limit: end(Ending.PAUSED, 5),
        print,
        window=Window.parse("20:00-08:00"),
        now=clock.now,
        sleep=clock.sleep,
    )
    assert last.cause is Cause.PERSON


@pytest.mark.parametrize(
    ("steps", "allowed", "starts"),
    [([None, None, None], 2, 3), ([10, 20, 30, 30, 30], 2, 5), ([5], 0, 1)],
)
def test_restarts_are_counted_without_progress(
    steps: list[int | None], allowed: int, starts: int
) -> None:
    clock, ends = Clock(datetime(2026, 3, 4)), iter(steps)
    began = []

    def start(limit: TimeLimit) -> End:
        began.append(limit)
        return end(Ending.CRASHED, next(ends), Cause.FAULT)

    last = supervise(
        start, lambda line: None, max_restarts=allowed, now=clock.now, sleep=clock.sleep
    )
    assert last.kind == "crashed"
    assert len(began) == starts


@dataclass
class TwoClocks(Clock):
    """A machine whose wall clock may be set; `monotonic` tells the seconds that passed."""

    passed: float = 1000.0

    def monotonic(self) -> float:
        return self.passed

    def work(self, seconds: float) -> None:
        self.passed += seconds
        self.time += timedelta(seconds=seconds)


def test_a_span_is_on_the_clock_that_nobody_sets_and_a_time_on_the_wall() -> None:
    clock = TwoClocks(datetime(2026, 3, 4, 22))
    clocks: dict[str, Any] = {"now": clock.now, "monotonic": clock.monotonic}
    assert TimeLimit.parse(None, "1h30m", **clocks) == TimeLimit(monotonic_at=1000.0 + 5400)
    tomorrow = datetime(2026, 3, 5, 8).timestamp()
    assert TimeLimit.parse("08:00", None, **clocks) == TimeLimit(at=tomorrow)
    today = datetime(2026, 3, 4, 23, 30).timestamp()
    assert TimeLimit.parse("23:30", None, **clocks) == TimeLimit(at=today)
    assert TimeLimit.parse(None, None, **clocks) == TimeLimit()


@pytest.mark.parametrize("set_by", [timedelta(days=2), -timedelta(days=2)], ids=["on", "back"])
def test_a_span_lasts_as_long_when_the_clock_is_set(set_by: timedelta) -> None:
    clock, told = TwoClocks(datetime(2026, 3, 4, 22)), []

    def start(limit: TimeLimit) -> End:
        told.append(limit)
        if len(told) == 1:
            clock.work(3600)
            clock.time += set_by
            return end(Ending.CRASHED, 5, Cause.FAULT)
        clock.work((limit.monotonic_at or 0.0) - clock.passed)
        return end(Ending.PAUSED, 9, Cause.DEADLINE)

    last = supervise(
        start,
        lambda line: None,
        limit=TimeLimit.parse(None, "8h", now=clock.now, monotonic=clock.monotonic),
        max_restarts=3,
        now=clock.now,
        monotonic=clock.monotonic,
        sleep=lambda seconds: None,
    )
    assert last.kind == "paused"
    assert told == [TimeLimit(monotonic_at=1000.0 + 8 * 3600)] * 2
    assert clock.passed == 1000.0 + 8 * 3600


def test_a_span_that_is_up_before_the_window_opens_again_ends_the_command() -> None:
    clock, starts = TwoClocks(datetime(2026, 3, 4, 22)), []

    def start(limit: TimeLimit) -> End:
        starts.append(limit)
        clock.work(7 * 3600)
        return end(Ending.PAUSED, 5, Cause.DEADLINE)

    last = supervise(
        start,
        lambda line: None,
        limit=TimeLimit(monotonic_at=clock.passed + 7 * 3600),
        window=Window.parse("20:00-08:00"),
        now=clock.now,
        monotonic=clock.monotonic,
        wait=lambda until: pytest.fail("waits for a window that it may not use"),
    )
    assert last.kind == "paused"
    closes = datetime(2026, 3, 5, 8).timestamp()
    assert starts == [TimeLimit(at=closes, monotonic_at=1000.0 + 7 * 3600)]


def test_no_restart_follows_a_crash_after_the_end_of_the_time() -> None:
    clock, starts = TwoClocks(datetime(2026, 3, 4, 22)), []

    def start(limit: TimeLimit) -> End:
        starts.append(limit)
        clock.work(60)
        return end(Ending.CRASHED, 5, Cause.FAULT)

    limit = TimeLimit(monotonic_at=clock.passed + 60)
    last = supervise(
        start,
        lambda line: None,
        limit=limit,
        max_restarts=3,
        now=clock.now,
        monotonic=clock.monotonic,
        sleep=clock.sleep,
    )
    assert (last.kind, len(starts)) == ("crashed", 1)


def test_the_end_of_a_span_is_told_on_the_wall_clock_of_its_own_host() -> None:
    launch = Launch(host="a", until=9000.0, until_monotonic=150.0)
    assert launch.off_by("a", now=5000.0, monotonic=100.0) == 5050.0
    assert launch.off_by("b", now=5000.0, monotonic=100.0) == 9000.0
    assert Launch(host="a").off_by("a", now=5000.0, monotonic=100.0) is None


def test_a_window_that_opens_after_the_end_of_the_time_is_told_at_once() -> None:
    clock = TwoClocks(datetime(2026, 3, 4, 12))
    told: list[str] = []
    last = supervise(
        lambda limit: pytest.fail("starts outside the window"),
        told.append,
        limit=TimeLimit(monotonic_at=clock.passed + 3600),
        window=Window.parse("20:00-08:00"),
        now=clock.now,
        monotonic=clock.monotonic,
    )
    assert (last.kind, last.cause) == ("stopped", Cause.DEADLINE)
    assert told == ["The window opens at 2026-03-04 20:00, after the end of its time."]
