"""What push and pull note of a place, so that list shows it."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

import pytest

from leviathan_train.cli.checkpoints import mirror_of
from leviathan_train.errors import UsageError
from leviathan_train.jobs import mirror as job
from leviathan_train.mirror.place import Place
from leviathan_train.mirror.remote import Remote
from leviathan_train.mirror.trouble import MirrorError, Trouble
from leviathan_train.run.folder import Run
from leviathan_train.run.records import MirrorState
from leviathan_train.system.files import write_json
from leviathan_train.system.locks import locked
from support import shapes


@pytest.fixture
def run(tmp_path: Path) -> Run:
    for step in (10, 20):
        shapes.make(tmp_path / "here/run", step, sealed=True)
    return Run(tmp_path / "here/run")


def place(tmp_path: Path, name: str = "there") -> Place:
    return Place(f"file://{tmp_path}/{name}", "run")


def push(run: Run, where: Place, *steps: int) -> list[str]:
    args = Namespace(steps=",".join(map(str, steps)), replace=False)
    return list(job.push(run, where, args, lambda *words, **values: None)["names"])


def noted(run: Run) -> tuple[str, list[int], int]:
    state = run.mirror
    assert state
    return state.url, [int(copy.partition(":")[0]) for copy in state.copies], state.pid


def test_the_place_that_was_used_last_is_noted_where_no_training_has_one(
    tmp_path: Path, run: Run
) -> None:
    for name in ("there", "elsewhere"):
        push(run, place(tmp_path, name), 10, 20)
        assert noted(run) == (f"file://{tmp_path}/{name}", [10, 20], 0)
    assert mirror_of(run, None).url == f"file://{tmp_path}/elsewhere"


def test_the_mirror_of_a_training_stays_the_runs_own(tmp_path: Path, run: Run) -> None:
    own = place(tmp_path)
    write_json(run.mirror_file, asdict(MirrorState(own.url, 4711, "host", trouble="gone")))
    push(run, own, 10)
    assert noted(run) == (own.url, [10], 4711)
    assert run.mirror and not run.mirror.trouble
    push(run, place(tmp_path, "usb"), 10, 20)
    assert noted(run) == (own.url, [10], 4711)


def test_beside_a_training_nothing_is_noted(tmp_path: Path, run: Run) -> None:
    run.mirror_folder.mkdir(parents=True)
    with locked(run.mirror_folder / "lock"):
        assert push(run, place(tmp_path), 10) == ["checkpoint-10"]
    assert run.mirror is None


def test_a_place_that_fails_after_the_last_copy_is_no_failure(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    real = Remote.copies

    def copies(self: Remote) -> object:
        asked.append(1)
        if len(asked) > 1:
            raise MirrorError("gone", Trouble.UNREACHABLE)
        return real(self)

    monkeypatch.setattr(Remote, "copies", copies)
    assert push(run, place(tmp_path), 10) == ["checkpoint-10"]
    assert len(asked) == 2


def test_a_mirror_that_needs_its_login_again_is_told_so(run: Run) -> None:
    run.mirror_folder.mkdir(parents=True)
    shown = Place("sftp://me:secret@host/runs", "run").shown
    write_json(run.mirror_file, asdict(MirrorState(shown)))
    with pytest.raises(UsageError, match="with a login, which is recorded nowhere"):
        mirror_of(run, None)
