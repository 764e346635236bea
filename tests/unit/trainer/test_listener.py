"""The listener with a clock of its own: what it hears, when it kills, what it survives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from leviathan_train.run.folder import Run
from leviathan_train.run.records import (
    Cause,
    End,
    Ending,
    Launch,
    Phase,
    RequestKind,
    Status,
)
from leviathan_train.run.session import Session
from leviathan_train.trainer.beats import Beats
from leviathan_train.trainer.lead import Deadline
from leviathan_train.trainer.listener import Listener


class Left(Exception):
    """Stands for the end of the process."""


class Bench:
    """A listener whose thread is not started: the test makes its turns."""

    def __init__(self, folder: Path, rank: int = 0, deadline: Deadline | None = None) -> None:
        self.now = 1000.0
        self.killed: list[End] = []
        self.left: list[End] = []
        self.session = Run(folder / "run").open_session(Launch(), role="rank0")
        self.listener = Listener(
            self.session,
            rank,
            Status("run", Phase.TRAINING, os.getpid(), "here"),
            deadline or Deadline(),
            self._leave,
            clock=lambda: self.now,
        )
        self.listener._woken.settimeout(0.001)
        self.listener.may_leave = False
        self.listener.kill = self._kill  # type: ignore[method-assign]

    def _kill(self, why: str, cause: Cause, kind: Ending = Ending.KILLED) -> None:
        self.killed.append(End(kind, None, None, why, 0.0, cause))

    def _leave(self, end: End) -> None:
        self.left.append(end)
        raise Left

    def close(self) -> None:
        """Close the sockets of the listener."""
        self.listener.close()

    def turn(self, after: float = 0.0) -> None:
        self.now += after
        self.listener._turn()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


def test_a_save_after_a_pause_leaves_the_pause_in_force(bench: Bench) -> None:
    bench.session.ask(RequestKind.PAUSE, "one", 300)
    save = bench.session.ask(RequestKind.SAVE, "two")
    bench.turn()
    assert bench.listener.heard.pause
    assert bench.listener.heard.pause.by == "one"
    assert bench.listener.heard.saves == {save}


@pytest.mark.parametrize("graces", [(300, 60), (60, 300)])
def test_of_two_deadlines_the_sooner_wins(bench: Bench, graces: tuple[float, float]) -> None:
    for grace in graces:
        bench.session.ask(RequestKind.PAUSE, "somebody", grace)
    bench.turn()
    bench.turn(after=59)
    assert not bench.killed
    bench.turn(after=2)
    assert bench.killed[0].cause is Cause.HUNG


@pytest.mark.parametrize("jump", [-86400.0, 86400.0])
def test_a_clock_that_is_set_neither_kills_nor_spares(
    bench: Bench, jump: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.session.ask(RequestKind.PAUSE, "somebody", 60)
    bench.turn()
    wall = time.time
    monkeypatch.setattr(time, "time", lambda: wall() + jump)
    bench.turn(after=30)
    assert not bench.killed
    bench.turn(after=31)
    assert bench.killed


def test_a_span_is_kept_by_the_clock_that_nobody_sets(tmp_path: Path) -> None:
    deadline = Deadline(monotonic_at=1100.0, step_seconds=4.0, save_seconds=6.0)
    bench = Bench(tmp_path, deadline=deadline)
    heard = []
    for seconds in (82, 2):  # a step and a save take 10 s, half as much more, and 2 s to end
        bench.turn(after=seconds)
        heard.append(bench.listener.heard.pause)
    assert heard[0] is None
    assert heard[1]
    assert heard[1].cause is Cause.DEADLINE
    bench.close()


def test_a_time_of_day_is_kept_by_the_wall_clock() -> None:
    deadline = Deadline(at=5000.0)
    assert not deadline.due(4997.0, monotonic=1e9)
    assert deadline.due(4998.5, monotonic=0.0)


def test_another_rank_hears_what_rank_0_has_taken(tmp_path: Path) -> None:
    zero = Bench(tmp_path)
    zero.session.ask(RequestKind.PAUSE, "somebody", 60)
    zero.turn()
    other = Listener(zero.session, 1, Status(), Deadline(), zero._leave, clock=lambda: zero.now)
    other._hear_requests()
    assert other.heard.pause == zero.listener.heard.pause
    other.close()
    zero.close()


def test_before_the_first_step_a_pause_ends_the_process_at_once(bench: Bench) -> None:
    bench.listener.may_leave = True
    bench.session.ask(RequestKind.PAUSE, "Ctrl+C", 300)
    with pytest.raises(Left):
        bench.turn()
    assert bench.left[0].kind is Ending.STOPPED


def test_a_save_that_comes_during_a_save_waits_for_the_next(bench: Bench) -> None:
    first = bench.session.ask(RequestKind.SAVE, "one")
    bench.turn()
    being_written = set(bench.listener.heard.saves)
    second = bench.session.ask(RequestKind.SAVE, "two")
    bench.turn()
    bench.listener.saved("checkpoint-5", being_written)
    assert bench.session.requests.answer(first)
    assert bench.session.requests.answer(second) is None
    assert bench.listener.heard.saves == {second}


# -- errors ----------------------------------------------------------------------------


def describe_fails() -> dict[str, Any]:
    raise ValueError("a status that cannot be described")


def test_a_status_that_cannot_be_described_still_beats(bench: Bench) -> None:
    bench.listener.describe = describe_fails
    bench.turn()
    first = bench.session.status
    assert first
    bench.turn(after=11)
    again = bench.session.status
    assert again
    assert again.updated > first.updated
    assert again.listener_errors >= 1


def spoil_requests(session: Session) -> None:
    session.requests.folder.mkdir(exist_ok=True)
    (session.requests.folder / "0-x.json").write_text('{"kind": "pause", "grace": "soon"')


def spoil_status(session: Session) -> None:
    session.status_file.unlink(missing_ok=True)
    session.status_file.mkdir()  # a rename onto it fails


@pytest.mark.parametrize("spoil", [spoil_requests, spoil_status])
def test_odd_files_do_not_make_it_deaf(bench: Bench, spoil: Callable[[Session], None]) -> None:
    spoil(bench.session)
    bench.turn(after=2)
    bench.session.ask(RequestKind.PAUSE, "somebody", 60)
    bench.turn(after=2)
    heard = bench.listener.heard.pause
    assert heard
    assert (heard.kind, heard.by, heard.grace) == (RequestKind.PAUSE, "somebody", 60)


def test_an_error_in_a_turn_is_survived_and_counted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    turns = iter([OSError("no space left"), RuntimeError("odd"), None])

    def turn() -> None:
        if error := next(turns):
            raise error
        bench.listener._closed.set()

    monkeypatch.setattr(bench.listener, "_turn", turn)
    bench.listener._run()
    assert bench.listener.errors == 2
    assert "odd" in capsys.readouterr().err


def test_a_listener_that_died_is_known_to_be_deaf(bench: Bench) -> None:
    assert bench.listener.is_deaf()  # never started
    bench.listener._closed.set()
    assert not bench.listener.is_deaf()


# -- a real process --------------------------------------------------------------------


def listening(session: Session, body: str) -> subprocess.Popen[str]:
    """A process that listens, with its main thread in `body`."""
    code = f"""
    import sys, time
    from pathlib import Path
    from leviathan_train.run.records import Status
    from leviathan_train.run.session import Session
    from leviathan_train.trainer.lead import Deadline
    from leviathan_train.trainer.listener import Listener
    listener = Listener(Session(Path(sys.argv[1])), 0, Status(), Deadline(), print)
    listener.may_leave = False
    listener.start()
    print("ready", flush=True)
    {body}
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(session.path)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_is_heard_while_the_main_thread_sits_in_c_code(
    tmp_path: Path, number: signal.Signals
) -> None:
    session = Run(tmp_path / "run").open_session(Launch())
    process = listening(session, "import hashlib; hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)")
    process.send_signal(number)
    deadline = time.monotonic() + 20
    while not session.asked and time.monotonic() < deadline:
        time.sleep(0.05)
    assert session.asked
    assert session.asked.by == number.name
    session.ask(RequestKind.KILL, "the test")
    assert process.wait(20) == -signal.SIGKILL
    assert session.end
    assert (session.end.kind, session.end.why) == (Ending.KILLED, "the test")
    assert process.stdout
    process.stdout.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_to_a_child_is_not_one_to_the_trainer(tmp_path: Path, number: int) -> None:
    """A pool that tokenises, or a data loader, ends its workers by SIGTERM."""
    session = Run(tmp_path / "run").open_session(Launch(), role="rank0")
    body = (
        "import os; child = os.fork(); child or time.sleep(60); time.sleep(0.5);"
        f" os.kill(child, {int(number)}); time.sleep(1.0); print(listener.heard.pause, flush=True);"
        " os.kill(child, 9)"
    )
    process = listening(session, body)
    assert process.communicate(timeout=60)[0] == "None\n"


def test_a_machine_that_is_gone_ends_the_training_as_a_crash(bench: Bench) -> None:
    """So that `--max-restarts` begins again."""
    bench.listener._beats = SilentOther(bench.session, 0, 2, beats=False)
    bench.turn()
    (end,) = bench.killed
    assert (end.kind, end.cause) == (Ending.CRASHED, Cause.DIED)
    assert "machine 1" in end.why


class SilentOther(Beats):
    """The other machine has been silent for too long."""

    def look(self) -> str:
        return "machine 1 gave no sign of life for 120 s"
