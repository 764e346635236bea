"""What a start fetches from a mirror, what it asks, and what `check` says of one."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from leviathan_train.checkpoints import store
from leviathan_train.config.load import Config
from leviathan_train.errors import Declined
from leviathan_train.launch import mirrored
from leviathan_train.launch.findings import Level, Topic
from leviathan_train.launch.mirrored import Mirror, fetch_newer
from leviathan_train.mirror.place import Place
from leviathan_train.mirror.trouble import MirrorError
from leviathan_train.run.folder import Run
from support import shapes


@dataclass
class Person:
    """Answers as the test says, and hears everything."""

    answer: bool = True
    interactive: bool = True
    heard: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def tell(self, line: str) -> None:
        self.heard.append(line)

    def confirm(self, question: str) -> bool:
        self.asked.append(question)
        return self.answer


@pytest.fixture
def mirror(tmp_path: Path) -> Mirror:
    """A mirror with whole checkpoints of steps 10 and 20."""
    for step in (10, 20):
        shapes.make(tmp_path / "there/run", step, sealed=True)
    return Mirror(Place(f"file://{tmp_path}/there", "run"))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "here/run")


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Mirror:
    """A mirror that cannot be read, for another reason than the user's."""
    monkeypatch.setattr(mirrored, "_AGAIN", (0.0,))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    return Mirror(Place("s3://bucket/x", "run"))


def fetch(
    mirror: Mirror, run: Run, person: Person, choice: str = "ask", **more: Any
) -> tuple[str, list[int]]:
    options = {"yes": False, "dry_run": False} | more
    chosen, _ = fetch_newer(mirror, run, choice, person, **options)  # type: ignore[arg-type]
    return chosen, [item.step for item in store.scan(run) if item.intact]


def test_a_new_machine_is_offered_the_newest_and_resumes_without_another_question(
    mirror: Mirror, run: Run
) -> None:
    person = Person()
    assert fetch(mirror, run, person) == ("auto", [20])
    assert len(person.asked) == 1 and person.asked[0].startswith("Fetch checkpoint-20 (")
    assert any("Fetched and verified checkpoint-20" in line for line in person.heard)


def test_no_changes_nothing(mirror: Mirror, run: Run) -> None:
    with pytest.raises(Declined) as raised:
        fetch(mirror, run, Person(answer=False))
    assert raised.value.exit_code == 130 and not run.path.exists()


def test_a_dry_run_only_says_what_would_be_fetched(mirror: Mirror, run: Run) -> None:
    person = Person()
    assert fetch(mirror, run, person, dry_run=True) == ("ask", [])
    assert not person.asked and "would be fetched" in person.heard[-1]
    _, coming = fetch_newer(mirror, run, "10", Person(), yes=False, dry_run=True)  # type: ignore[arg-type]
    assert coming and coming.path == run.path / "checkpoint-10" and coming.intact
    assert coming.seal and coming.seal.config["lora_r"] == 8
    assert not run.path.exists()


@pytest.mark.parametrize(
    ("person", "more"), [(Person(interactive=False), {}), (Person(), {"yes": True})]
)
def test_without_anybody_to_ask_it_is_fetched(
    mirror: Mirror, run: Run, person: Person, more: dict[str, Any]
) -> None:
    assert fetch(mirror, run, person, "auto", **more)[1] == [20]
    assert not person.asked


def test_what_is_newer_here_is_kept(mirror: Mirror, run: Run) -> None:
    shapes.make(run.path, 30, sealed=True)
    person = Person()
    assert fetch(mirror, run, person) == ("ask", [30])
    assert not person.asked


def test_a_copy_that_is_not_what_was_sealed_is_told_and_the_one_before_it_taken(
    mirror: Mirror, run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "there/run/checkpoint-20/optimizer.pt"
    content = bytearray(file.read_bytes())
    content[60] ^= 1
    file.write_bytes(content)
    person = Person()
    assert fetch(mirror, run, person)[1] == [10]
    assert any("is not what was sealed: optimizer.pt has changed" in line for line in person.heard)


def test_a_damaged_checkpoint_here_is_set_aside_for_the_whole_one_there(
    mirror: Mirror, run: Run
) -> None:
    shapes.make(run.path, 20, sealed=True)
    (run.checkpoint(20) / "optimizer.pt").unlink()
    assert fetch(mirror, run, Person())[1] == [20]
    (aside,) = run.superseded.glob("*/checkpoint-20")
    assert not (aside / "optimizer.pt").exists()


def test_what_this_run_has_set_aside_is_not_fetched_again(
    mirror: Mirror, run: Run, tmp_path: Path
) -> None:
    aside = run.superseded / "20260101_000000"
    aside.mkdir(parents=True)
    shutil.copytree(tmp_path / "there/run/checkpoint-20", aside / "checkpoint-20")
    assert fetch(mirror, run, Person())[1] == [10]


def test_a_place_out_of_reach_stops_a_start_only_if_there_is_nothing_here(
    broken: Mirror, run: Run
) -> None:
    with pytest.raises(MirrorError) as raised:
        fetch(broken, run, Person())
    assert "--resume never" in str(raised.value.hint) and raised.value.exit_code == 1
    person = Person()
    assert fetch(broken, run, person, "never") == ("never", [])
    shapes.make(run.path, 10, sealed=True)
    assert fetch(broken, run, person) == ("ask", [10])
    assert "Training goes on" in person.heard[-1]


@pytest.mark.parametrize(
    ("url", "level", "words"),
    [
        (None, None, ""),
        ("{there}", Level.OK, "it has 2 checkpoints, up to step 20"),
        ("{nowhere}", Level.OK, "it has none yet"),
        ("s4://x", Level.ERROR, "s4:// is not a known protocol"),
        ("cp {name} x", Level.ERROR, "a command needs {path}"),
        ("cp {path} x", None, ""),
    ],
)
def test_check_says_whether_the_mirror_can_be_used(
    mirror: Mirror, run: Run, tmp_path: Path, url: str | None, level: Level | None, words: str
) -> None:
    places = {"{there}": str(tmp_path / "there"), "{nowhere}": str(tmp_path / "nowhere")}
    config = Config(Path("c.yaml"), {"leviathan_mirror": places.get(str(url), url)})
    found = list(mirrored.findings(config, run, [], lambda line: None))
    assert [one.level for one in found] == ([level] if level else [])
    assert all(one.topic is Topic.MIRROR and words in one.message for one in found)
