"""Fetching a copy: what is begun goes on, and nothing passes for whole that is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from leviathan_train.checkpoints import store
from leviathan_train.errors import Busy, LeviathanError
from leviathan_train.mirror.copies import Copy
from leviathan_train.mirror.fetch import fetch
from leviathan_train.mirror.place import Place
from leviathan_train.mirror.remote import Remote
from leviathan_train.run.folder import Run
from leviathan_train.run.records import Launch
from support import shapes
from support.disks import disk_of, fill


class Remarkable(Remote):
    """A place at which something happens after the first part was read."""

    def __init__(self, place: Place, happens: object = None) -> None:
        super().__init__(place)
        self.happens = happens
        self.read_files: list[str] = []

    def read(self, name: str, file: str, start: int | None = None, end: int | None = None) -> bytes:
        found = super().read(name, file, start, end)
        self.read_files.append(file)
        if callable(self.happens):
            happens, self.happens = self.happens, None
            happens()
        return found


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A place with a checkpoint of step 10."""
    run = Run(tmp_path / "there/run")
    shapes.make(run.path, 10, sealed=True)
    return Place(f"file://{tmp_path}/there", "run")


def copy_at(place: Place) -> Copy:
    (copy,) = Remote(place).copies()
    return copy


def nothing(count: int) -> None:
    pass


def test_a_disk_that_fills_up_meanwhile_keeps_what_came(tmp_path: Path, place: Place) -> None:
    with disk_of(tmp_path / "disk", "4m") as disk:
        run = Run(disk / "run")
        ballast: list[Path] = []
        remote = Remarkable(place, lambda: ballast.append(fill(disk)))
        with pytest.raises(LeviathanError, match="No room for checkpoint-10") as raised:
            fetch(run, remote, copy_at(place), nothing)
        assert "goes on where it ended" in str(raised.value.hint)
        assert store.folders(run) == []
        ballast[0].unlink()
        again = Remarkable(place)
        path = fetch(run, again, copy_at(place), nothing)
        assert store.inspect(run, path, store.Read.ALL).intact


def test_what_came_is_not_read_again(tmp_path: Path, place: Place) -> None:
    run = Run(tmp_path / "run")

    def gone() -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        fetch(run, Remarkable(place, gone), copy_at(place), nothing)
    first = Remarkable(place)
    told: list[int] = []
    fetch(run, first, copy_at(place), told.append)
    assert told == sorted(told) and told[-1] <= copy_at(place).bytes


def test_a_run_that_trains_is_left_alone(tmp_path: Path, place: Place) -> None:
    run = Run(tmp_path / "run")
    run.open_session(Launch(config="c.yaml"))
    with pytest.raises(Busy):
        fetch(run, Remote(place), copy_at(place), nothing)
    assert store.folders(run) == []


def test_what_the_run_has_is_never_replaced(tmp_path: Path, place: Place) -> None:
    run = Run(tmp_path / "run")
    shapes.make(run.path, 10, sealed=True)
    before = (run.checkpoint(10) / store.SEAL).read_bytes()
    with pytest.raises(LeviathanError, match="has a checkpoint-10 already"):
        fetch(run, Remote(place), copy_at(place), nothing)
    assert (run.checkpoint(10) / store.SEAL).read_bytes() == before


def test_a_name_that_leads_out_of_the_checkpoint_is_refused(tmp_path: Path, place: Place) -> None:
    path = tmp_path / "there/run/checkpoint-10"
    (path / store.SEAL).unlink()
    sealed = shapes.seal(path)
    text = sealed.to_text().replace('"optimizer.pt"', '"../../optimizer.pt"')
    (path / store.SEAL).write_text(text)
    (found,) = Remote(place).copies()
    assert found.seal is None, "the seal proves its own text"
