"""The process that copies, with a place on the same disk, a clock of its own, and no training."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from leviathan_train.checkpoints.retention import Policy
from leviathan_train.checkpoints.seal import SEAL
from leviathan_train.mirror.copies import CopyState
from leviathan_train.mirror.local import named, sha_of
from leviathan_train.mirror.place import Place
from leviathan_train.mirror.remote import SET_ASIDE, Owner, Remote
from leviathan_train.mirror.trouble import MirrorError, Trouble
from leviathan_train.mirror.watch import BEAT, CommandStore, Store, Task, Watcher
from leviathan_train.run.folder import Run
from leviathan_train.run.records import Launch, MirrorState
from support import shapes


@dataclass
class Clock:
    """A clock that moves when somebody sleeps, and what happens meanwhile."""

    now: float = 1000.0
    meanwhile: list[Callable[[], object]] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.meanwhile:
            self.meanwhile.pop(0)()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


@pytest.fixture
def place(tmp_path: Path, run: Run) -> Place:
    return Place(f"file://{tmp_path}/there", run.name)


def copies(place: Place) -> dict[int, str]:
    return {copy.step: copy.state.value for copy in Remote(place).copies()}


def state(run: Run) -> MirrorState:
    found = run.mirror
    assert found
    return found


def copy_all(
    run: Run,
    place: Place,
    clock: Clock | None = None,
    *,
    store: Store | None = None,
    **task: object,
) -> None:
    clock = clock or Clock()
    made = replace(Task(run, place.shown), **task)  # type: ignore[arg-type]
    Watcher(made, lambda: store or Remote(place), clock=clock, sleep=clock.sleep).run()


def test_every_sealed_checkpoint_is_copied_and_told_of(run: Run, place: Place) -> None:
    for step in (10, 20):
        shapes.make(run.path, step, sealed=True)
    shapes.make(run.path, 30)  # not sealed
    copy_all(run, place)
    assert copies(place) == {10: "whole", 20: "whole"}
    told = state(run)
    assert told.done and not told.trouble and told.url == place.url
    assert told.copies == tuple(
        named(step, sha_of((run.checkpoint(step) / SEAL).read_bytes())) for step in (10, 20)
    )
    for step in (10, 20):
        there = Path(place.url.removeprefix("file://")) / run.name / f"checkpoint-{step}"
        assert {file.name for file in there.iterdir()} == {
            file.name for file in run.checkpoint(step).iterdir()
        }


def test_a_changed_file_is_not_copied_under_a_seal(
    run: Run, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    shapes.make(run.path, 10, sealed=True)
    shapes.make(run.path, 20, sealed=True)
    file = run.checkpoint(20) / "optimizer.pt"
    content = bytearray(file.read_bytes())
    content[50] ^= 1
    file.write_bytes(content)
    copy_all(run, place)
    assert copies(place)[10] == "whole"
    assert copies(place).get(20) in {None, "partial"}
    assert "checkpoint-20 is not copied: optimizer.pt has changed" in capsys.readouterr().out


def test_a_place_out_of_reach_is_tried_again_and_told(run: Run, place: Place) -> None:
    shapes.make(run.path, 10, sealed=True)
    told: list[str] = []
    tries = 0

    def open_store() -> Store:
        nonlocal tries
        tries += 1
        if tries < 4:
            raise MirrorError("The mirror x: no route to host", Trouble.UNREACHABLE)
        return Remote(place)

    clock = Clock(meanwhile=[lambda: told.append(state(run).trouble)] * 3)
    Watcher(Task(run, place.shown), open_store, clock=clock, sleep=clock.sleep).run()
    assert told == ["The mirror x: no route to host"] * 3
    assert clock.now - 1000 == 10 + 20 + 40, "each wait is twice as long as the one before"
    assert copies(place) == {10: "whole"} and state(run).trouble == ""


def test_a_place_that_stays_out_of_reach_is_given_up_an_hour_after_the_end(run: Run) -> None:
    shapes.make(run.path, 10, sealed=True)

    def open_store() -> Store:
        raise MirrorError("The mirror x: no route to host", Trouble.UNREACHABLE)

    clock = Clock()
    Watcher(Task(run, "x"), open_store, clock=clock, sleep=clock.sleep).run()
    assert 3600 < clock.now - 1000 < 3800
    assert state(run).trouble and not state(run).done


def test_what_was_copied_in_part_is_completed(run: Run, place: Place) -> None:
    shapes.make(run.path, 10, sealed=True)
    there = Path(place.url.removeprefix("file://")) / run.name / "checkpoint-10"
    there.mkdir(parents=True)
    (there / "optimizer.pt").write_bytes(b"half")
    (there / "adapter_model.safetensors.part").write_bytes(b"half")
    assert copies(place) == {10: "partial"}
    copy_all(run, place)
    assert copies(place) == {10: "whole"}
    assert not list(there.glob("*.part"))


def test_what_was_begun_of_a_checkpoint_that_is_gone_does_not_stay(run: Run, place: Place) -> None:
    shapes.make(run.path, 10, sealed=True)
    there = Path(place.url.removeprefix("file://")) / run.name / "checkpoint-5"
    there.mkdir(parents=True)
    (there / "optimizer.pt").write_bytes(b"half")
    copy_all(run, place)
    assert copies(place) == {10: "whole"}


def test_a_damaged_copy_is_made_anew(run: Run, place: Place) -> None:
    shapes.make(run.path, 10, sealed=True)
    copy_all(run, place)
    there = Path(place.url.removeprefix("file://")) / run.name / "checkpoint-10"
    (there / "optimizer.pt").unlink()
    assert copies(place) == {10: "damaged"}
    copy_all(run, place)
    assert copies(place) == {10: "whole"}


def test_retention_there_keeps_the_newest(run: Run, place: Place) -> None:
    for step in (10, 20):
        shapes.make(run.path, step, sealed=True)
    copy_all(run, place)
    for step in (30, 40):
        shapes.make(run.path, step, sealed=True)
    copy_all(run, place, keep=Policy(2, keep_best=0))
    assert copies(place) == {30: "whole", 40: "whole"}
    there = Path(place.url.removeprefix("file://")) / run.name
    assert sorted(item.name for item in there.iterdir()) == [
        "checkpoint-30",
        "checkpoint-40",
        "leviathan-mirror.json",
    ]


def test_copies_of_a_branch_that_is_left_are_set_aside(run: Run, place: Place) -> None:
    for step in (10, 20, 30):
        shapes.make(run.path, step, sealed=True)
    copy_all(run, place)
    for step in (20, 30):
        shutil.rmtree(run.checkpoint(step))
    shapes.make(run.path, 15, sealed=True)
    copy_all(run, place, resumed_at=10)
    assert copies(place) == {10: "whole", 15: "whole", 20: "set aside", 30: "set aside"}
    there = Path(place.url.removeprefix("file://")) / run.name
    assert (there / "checkpoint-30" / SET_ASIDE).is_file()
    shapes.make(run.path, 30, sealed=True)
    copy_all(run, place)
    assert copies(place)[30] == "whole", "the new branch has come as far"
    assert not (there / "checkpoint-30" / SET_ASIDE).exists()


def test_another_machine_that_writes_there_is_told_and_nothing_is_copied(
    run: Run, place: Place
) -> None:
    shapes.make(run.path, 10, sealed=True)
    remote = Remote(place)
    beats = iter(range(1, 1000))

    def beat() -> None:
        remote.claim(Owner("other", "host2", "/runs/run", float(next(beats))))
        assert state(run).other == "host2:/runs/run"
        assert copies(place) == {}

    remote.claim(Owner("other", "host2", "/runs/run", 0.0))
    clock = Clock(meanwhile=[beat] * 20)
    copy_all(run, place, clock)
    assert clock.now - 1000 > 20 * BEAT, "while it goes on"
    assert copies(place) == {10: "whole"}, "once it has not been heard for two beats and a half"
    assert state(run).other == ""


def test_a_machine_that_ended_properly_is_not_waited_for(run: Run, place: Place) -> None:
    other = Run(run.path.with_name("elsewhere") / run.name)
    shapes.make(other.path, 10, sealed=True)
    copy_all(other, place)
    shapes.make(run.path, 20, sealed=True)
    clock = Clock()
    copy_all(run, place, clock)
    assert copies(place) == {10: "whole", 20: "whole"}
    assert clock.now - 1000 < BEAT


def test_the_process_of_an_earlier_session_makes_room_for_the_next_one(
    run: Run, place: Place
) -> None:
    session = run.open_session(Launch(config="c.yaml"))
    shapes.make(run.path, 10, sealed=True)
    copy_all(run, place, session="20200101_000000")
    assert copies(place) == {}
    clock = Clock(meanwhile=[lambda: shutil.rmtree(session.path)])
    copy_all(run, place, clock, session=session.id)
    assert copies(place) == {10: "whole"}


def test_a_command_copies_and_its_failure_is_told(run: Run, tmp_path: Path) -> None:
    shapes.make(run.path, 10, sealed=True)
    there = tmp_path / "there"
    place = Place(
        f"test -d {there} || {{ echo no disk; exit 3; }}; cp -r {{path}} {there}/{{run}}-{{name}}",
        run.name,
    )
    told: list[str] = []

    def mend() -> None:
        told.append(state(run).trouble)
        there.mkdir()

    copy_all(run, place, Clock(meanwhile=[mend]), store=CommandStore(place.command))
    assert told == ["The command of leviathan_mirror failed (exit 3): no disk"]
    assert (there / f"{run.name}-checkpoint-10" / SEAL).is_file()
    assert state(run).done


def test_a_copy_with_a_file_of_another_size_is_not_whole(run: Run, place: Place) -> None:
    shapes.make(run.path, 10, sealed=True)
    copy_all(run, place)
    there = Path(place.url.removeprefix("file://")) / run.name / "checkpoint-10"
    with (there / "optimizer.pt").open("ab") as stream:
        stream.write(b"x")
    (found,) = Remote(place).copies()
    assert found.state is CopyState.DAMAGED and "optimizer.pt has" in found.reason
    text = json.loads((there / SEAL).read_text())
    text["world_size"] = 9
    (there / SEAL).write_text(json.dumps(text))
    (found,) = Remote(place).copies()
    assert (found.state, found.reason) == (
        CopyState.DAMAGED,
        f"{SEAL} has changed since it was written",
    )
