"""Requests from any number of terminals: none is lost, and the stronger one wins."""

from __future__ import annotations

import json
import multiprocessing
import time
from pathlib import Path

import pytest

from leviathan_train.run.folder import Run
from leviathan_train.run.records import Answer, Cause, Launch, Request, RequestKind
from leviathan_train.run.requests import RequestQueue
from leviathan_train.run.session import Session


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Run(tmp_path / "run").open_session(Launch(cli=True))


def put_many(folder: Path, kind: RequestKind, count: int) -> None:
    queue = RequestQueue(folder)
    for number in range(count):
        queue.put(Request(kind, f"{kind} {number}", time.time(), 300))


def test_requests_of_four_writers_at_once_are_all_there(tmp_path: Path) -> None:
    kinds = [RequestKind.PAUSE, RequestKind.SAVE, RequestKind.SAVE, RequestKind.PAUSE]
    writers = [multiprocessing.Process(target=put_many, args=(tmp_path, k, 50)) for k in kinds]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    queue = RequestQueue(tmp_path)
    found = [queue.read(name) for name in queue.names()]
    assert len(found) == 200
    assert all(found)


def test_two_requests_within_one_tick_of_the_clock_are_two(tmp_path: Path) -> None:
    queue = RequestQueue(tmp_path)
    names = [queue.put(Request(RequestKind.SAVE, "a", 0.0, 0)) for _ in range(20)]
    assert len(set(names)) == 20
    assert queue.names() == sorted(names)


def test_a_request_is_read_before_and_after_it_was_taken(tmp_path: Path) -> None:
    queue = RequestQueue(tmp_path)
    name = queue.put(Request(RequestKind.PAUSE, "Ctrl+C", 5.0, 300, Cause.PERSON))
    before = queue.read(name)
    queue.take(name)
    assert queue.read(name) == before == Request(RequestKind.PAUSE, "Ctrl+C", 5.0, 300)
    assert queue.names() == [name]
    queue.take(name)  # by another process, at the same moment


@pytest.mark.parametrize("order", [1, -1])
def test_a_pause_wins_over_a_save_whatever_the_order(session: Session, order: int) -> None:
    for kind in [RequestKind.PAUSE, RequestKind.SAVE][::order]:
        session.ask(kind, "somebody", 300)
    assert session.asked
    assert session.asked.kind is RequestKind.PAUSE


def test_a_kill_wins_over_a_pause(session: Session) -> None:
    session.ask(RequestKind.PAUSE, "one", 300)
    session.ask(RequestKind.KILL, "two")
    assert session.asked
    assert session.asked.by == "two"


def test_each_asker_finds_its_own_answer(session: Session) -> None:
    first = session.ask(RequestKind.SAVE, "one")
    second = session.ask(RequestKind.SAVE, "two")
    session.requests.resolve(second, Answer("checkpoint-7", 1.0))
    assert session.requests.answer(first) is None
    assert session.requests.answer(second) == Answer("checkpoint-7", 1.0)
    assert session.asked is None


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"kind": "dance"}', '{"kind": 3}', "\0", "[" * 100_000]
)
def test_garbage_in_the_queue_is_no_request(session: Session, text: str) -> None:
    session.requests.folder.mkdir()
    (session.requests.folder / "0-x.json").write_text(text)
    before = session.asked
    session.ask(RequestKind.PAUSE, "Ctrl+C", 300)
    after = session.asked
    assert before is None
    assert after
    assert after.by == "Ctrl+C"


def test_a_trainer_from_before_an_upgrade_still_hears(tmp_path: Path) -> None:
    session = Session(tmp_path / "run/.leviathan/sessions/1")
    session.path.mkdir(parents=True)
    session.launch_file.write_text('{"id": "1", "host": ""}')  # as version 0.1.0 wrote it
    session.ask(RequestKind.PAUSE, "leviathan pause", 300)
    old = json.loads((session.path / "request.json").read_text())
    assert (old["kind"], old["by"], old["grace"]) == ("pause", "leviathan pause", 300)
