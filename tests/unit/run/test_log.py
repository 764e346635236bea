"""Following the logs of a run: nothing is missed, and it ends when the training does."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from leviathan_train.errors import UsageError
from leviathan_train.run import liveness, log
from leviathan_train.run.folder import Run
from leviathan_train.run.records import End, Ending, Launch
from leviathan_train.run.session import Session
from support.runs import end_session

PAUSED = End(Ending.PAUSED, 5, "checkpoint-5", "Ctrl+C", 1.0)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(tmp_path / "run")
    run.logs.mkdir(parents=True)
    return run


def begun(run: Run, text: str) -> Session:
    session = run.open_session(Launch())
    write(session, text)
    return session


def write(session: Session, text: str) -> None:
    with session.log.open("a") as stream:
        stream.write(text)


def played(events: Iterator[Callable[[], object]]) -> Callable[[float], None]:
    """A `sleep` in which the next event happens."""

    def sleep(seconds: float) -> None:
        next(events)()

    return sleep


def test_what_is_written_until_the_end_is_shown_and_then_it_ends(run: Run) -> None:
    session = begun(run, "one\n")

    def last_words() -> None:
        write(session, "three\n")
        end_session(session, PAUSED)

    events: list[Callable[[], object]] = [lambda: None, lambda: write(session, "tw"), last_words]
    assert b"".join(log.follow(run, session, sleep=played(iter(events)))) == b"one\ntwthree\n"


def test_it_goes_on_with_the_session_of_a_restart(run: Run) -> None:
    first = begun(run, "crash\n")
    later: list[Session] = []

    def crash() -> None:
        first.close(End(Ending.CRASHED, None, None, "", 1.0))
        write(first, "traceback\n")

    def restart() -> None:
        end_session(first, PAUSED)
        later.append(run.open_session(Launch()))  # its log is not there yet

    events: list[Callable[[], object]] = [
        crash,
        lambda: None,  # the command lives and waits
        restart,
        lambda: write(later[0], "again\n"),
        lambda: end_session(later[0], PAUSED),
    ]
    told = b"".join(log.follow(run, first, sleep=played(iter(events))))
    assert told == b"crash\ntraceback\nagain\n"


def test_the_tenth_session_of_a_second_comes_after_the_ninth(run: Run) -> None:
    """As many bear one time where the clock was set back."""
    ninth = dated(run, begun(run, "nine\n"), "20200101_200000_9")
    end_session(ninth, PAUSED)
    tenth = dated(run, begun(run, "ten\n"), "20200101_200000_10")
    end_session(tenth, PAUSED)
    assert b"".join(log.follow(run, ninth)) == b"nine\nten\n"


def test_a_window_that_opens_is_no_end(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record of the waiting is removed just while it is looked at."""
    first = dated(run, begun(run, "night\n"), "20200101_200000")
    end_session(first, PAUSED)
    waiting = dated(run, run.open_session(Launch(waiting_until=9e9)), "20200102_080000")
    look = liveness.alive

    def opens(session: Session) -> bool:
        if session == waiting and waiting.path.exists():
            shutil.rmtree(waiting.path)
            write(run.open_session(Launch()), "next night\n")
        return look(session)

    monkeypatch.setattr(liveness, "alive", opens)
    events: list[Callable[[], object]] = [
        lambda: None,
        lambda: end_session(run.sessions()[-1], PAUSED),
    ]
    told = b"".join(log.follow(run, first, sleep=played(iter(events))))
    assert told == b"night\nnext night\n"


def dated(run: Run, session: Session, name: str) -> Session:
    """The session, as if it had begun at another time."""
    other = Session(session.path.with_name(name))
    session.path.rename(other.path)
    if session.log.exists():
        session.log.rename(other.log)
    return other


def test_the_newest_session_with_a_log_is_meant(run: Run) -> None:
    with pytest.raises(UsageError, match="no session"):
        log.newest_logged(run)
    first = begun(run, "one\n")
    end_session(first, PAUSED)
    run.open_session(Launch(waiting_until=9e9))
    assert log.newest_logged(run).log == first.log
    first.log.unlink()
    with pytest.raises(UsageError, match=r"no file .*training_"):
        log.newest_logged(run)
