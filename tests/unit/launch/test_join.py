"""What the command on another machine waits for, and how long."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from leviathan_train.errors import Busy, UsageError
from leviathan_train.launch.join import PATIENCE, Wait
from leviathan_train.launch.machines import Layout
from leviathan_train.run.folder import Run
from leviathan_train.run.records import Cause, End, Ending, Launch
from leviathan_train.run.session import Session
from leviathan_train.system.processes import Process
from leviathan_train.system.signals import NotedSignals

SECOND = Layout(2, 2, 1, ("192.0.2.1", 29500))


@dataclass
class Bench:
    """A second machine whose seconds pass as it waits for them."""

    run: Run
    now: float = 0.0
    answers: bool = False
    layout: Layout = SECOND

    def sleep(self, seconds: float) -> None:
        self.now += 100 * seconds

    def wait(
        self, joined: Session | None = None, then: Callable[[], None] = lambda: None
    ) -> Session | End:
        def sleep(seconds: float) -> None:
            then()
            self.sleep(seconds)

        wait = Wait(self.run, self.layout, lambda address: self.answers, lambda: self.now, sleep)
        with NotedSignals() as signals:
            return wait(signals, joined)

    def open(self, *, machines: int = 2) -> Session:
        """What the first machine does; this process stands for its command line."""
        session = self.run.open_session(Launch(config="c.yaml", cli=True, machines=machines))
        session.add_process(Process.of(), "launcher")
        return session


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(Run(tmp_path / "run"))


def test_it_joins_what_the_first_machine_opens_later(bench: Bench) -> None:
    opened: list[Session] = []

    def open_once() -> None:
        if not opened:
            opened.append(bench.open())

    found = bench.wait(then=open_once)
    assert isinstance(found, Session)
    assert found.path.resolve() == opened[0].path.resolve()


def test_it_waits_until_the_launcher_runs_there(bench: Bench) -> None:
    """Before, the first machine may still move checkpoints aside."""
    session = bench.run.open_session(Launch(config="c.yaml", cli=True, machines=2))

    def launched() -> None:
        session.add_process(Process.of(), "launcher")

    assert isinstance(bench.wait(then=launched), Session)
    assert bench.now > 0


@pytest.mark.parametrize(
    ("number", "why", "cause"),
    [(signal.SIGINT, "Ctrl+C", Cause.PERSON), (signal.SIGTERM, "SIGTERM", Cause.SIGNAL)],
)
def test_the_signal_that_ends_the_waiting_is_named(
    bench: Bench, number: signal.Signals, why: str, cause: Cause
) -> None:
    end = bench.wait(then=lambda: signal.raise_signal(number))
    assert isinstance(end, End)
    assert (end.kind, end.why, end.cause) == (Ending.STOPPED, why, cause)


def test_it_joins_no_session_twice(bench: Bench) -> None:
    session = bench.open()
    with pytest.raises(UsageError, match="has not begun in 15 minutes"):
        bench.wait(joined=session)
    assert bench.now >= PATIENCE


def test_it_joins_none_that_has_ended(bench: Bench) -> None:
    bench.open().close(End(Ending.PAUSED))
    with pytest.raises(UsageError, match="has not begun"):
        bench.wait()


def test_a_machine_that_takes_part_already_is_refused(bench: Bench) -> None:
    session = bench.open()
    session.add_process(Process.of(), "launcher1")
    with pytest.raises(Busy, match="already training"):
        bench.wait()


def test_a_training_on_one_machine_is_not_joined(bench: Bench) -> None:
    bench.open(machines=1)
    with pytest.raises(Busy, match="already training"):
        bench.wait()


def test_a_folder_that_is_not_shared_is_told_within_two_minutes(bench: Bench) -> None:
    bench.answers = True
    with pytest.raises(UsageError, match=r"trains at 192\.0\.2\.1:29500, but not in") as told:
        bench.wait()
    assert bench.now < PATIENCE / 3
    assert "share" in str(told.value.hint)


def test_without_an_address_nobody_is_asked(bench: Bench) -> None:
    bench.answers, bench.layout = True, replace(SECOND, address=None)
    with pytest.raises(UsageError, match="has not begun in 15 minutes"):
        bench.wait()
