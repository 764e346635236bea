"""Which run is meant, wherever it lies: remembered in the user's state folder."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from leviathan_train.cli import cli
from leviathan_train.errors import UsageError
from leviathan_train.launch import requests
from leviathan_train.run import index, lookup
from leviathan_train.run.folder import Run
from leviathan_train.run.records import End, Ending, Launch
from leviathan_train.run.session import Session
from support.runs import end_session


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a config, which is the working directory; nothing is remembered yet."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "my.yaml").write_text("output_dir: ./outputs/my-lora\n")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    return folder


def train(path: str = "outputs/my-lora", config: str = "my.yaml") -> Session:
    """A training whose command line is this process, started from the working directory."""
    return Run(Path(path)).open_session(Launch(config=config, cwd=os.getcwd()))


def end(session: Session) -> None:
    end_session(session, End(Ending.PAUSED, 1, None, "Ctrl+C", time.time()))


def found(target: str | None, *, live: bool = False) -> str:
    return str(lookup.find(target, live=live).path.resolve())


@pytest.mark.parametrize("where", ["work/training", "outputs"])
def test_a_folder_that_may_not_be_read_hides_no_other_run(
    project: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    for name in ("a", "closed", "z"):
        end(train(f"{where}/{name}"))
    is_file = Path.is_file

    def refuse(path: Path) -> bool:
        if "closed" in path.parts:
            raise PermissionError(13, "Permission denied", str(path))
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", refuse)  # as root may read everything
    assert sorted(run.name for run in lookup.all_runs()) == ["a", "z"]
    assert lookup.find(None).name in {"a", "z"}


def test_a_run_is_found_by_name_and_without_one_from_its_folder(project: Path) -> None:
    end(train())
    here = str(project / "outputs/my-lora")
    assert found("my-lora") == found(None) == found("my.yaml") == here
    assert [run.path for run in lookup.all_runs()] == [Path("outputs/my-lora")]


def test_the_one_that_trains_is_found_from_any_folder(
    project: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = train()
    monkeypatch.chdir(elsewhere)
    (elsewhere / "work/training/older/checkpoint-1").mkdir(parents=True)
    here = str(project / "outputs/my-lora")
    assert found(None, live=True) == found("my-lora") == here
    assert lookup.all_runs()[0].path == Path(here)  # before one that was used later
    assert found(None) == str(elsewhere / "work/training/older")
    end(session)
    assert found(None, live=True) == str(elsewhere / "work/training/older")


def test_a_command_that_deletes_or_merges_takes_no_run_of_another_folder_unasked(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end(train())
    monkeypatch.chdir(elsewhere)
    with pytest.raises(UsageError, match=r"No run of this folder.*1 elsewhere"):
        lookup.find(None)


def test_a_config_means_the_run_that_it_started_wherever_it_is_named(
    project: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train()
    monkeypatch.chdir(elsewhere)
    assert found("../project/my.yaml", live=True) == str(project / "outputs/my-lora")
    assert found("../project/my.yaml") == str(project / "outputs/my-lora")


def test_a_config_whose_output_dir_was_set_in_the_command_means_that_run(project: Path) -> None:
    train("runs/tuesday")
    assert found("my.yaml", live=True) == str(project / "runs/tuesday")


def test_what_does_not_train_is_told_with_the_folder_that_was_looked_at(elsewhere: Path) -> None:
    with pytest.raises(UsageError) as error:
        requests.live(lookup.find("my.yaml", live=True))
    assert str(Path("outputs/my-lora").absolute()) in error.value.message


def test_of_two_runs_of_one_name_that_of_the_folder_is_meant_and_otherwise_a_path_is_asked_for(
    project: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end(train())
    monkeypatch.chdir(elsewhere)
    other = train()
    assert found("my-lora") == str(elsewhere / "outputs/my-lora")
    monkeypatch.chdir(project)
    assert found("my-lora") == str(project / "outputs/my-lora")
    monkeypatch.chdir(project.parent / "state")
    assert found("my-lora", live=True) == str(elsewhere / "outputs/my-lora")
    with pytest.raises(UsageError, match="means 2 runs"):
        lookup.find("my-lora")
    assert lookup.shortest_name(lookup.all_runs()[1]) == str(project / "outputs/my-lora")
    end(other)
    with pytest.raises(UsageError, match="means 2 runs"):
        lookup.find("my-lora", live=True)


def test_a_run_that_is_gone_is_forgotten_and_one_whose_disk_is_away_is_not(
    project: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end(train())
    end(train(str(elsewhere / "disk/far")))
    shutil.rmtree(project / "outputs/my-lora")
    away = (elsewhere / "disk").rename(elsewhere / "away")
    assert lookup.all_runs() == []
    assert len(list((project.parent / "state/leviathan/runs").iterdir())) == 1
    away.rename(elsewhere / "disk")
    assert [run.name for run in lookup.all_runs()] == ["far"]


@pytest.mark.parametrize("text", ["", "null", "[]", '"path"', '{"path": null}'])
def test_what_a_power_cut_left_of_the_memory_of_a_run_is_passed_over(
    project: Path, text: str
) -> None:
    end(train())
    (project.parent / "state/leviathan/runs/other.json").write_text(text)
    assert [run.name for run in lookup.all_runs()] == ["my-lora"]


@pytest.mark.parametrize("name", ["x" * 300, "x/" * 3000, "x\0"])
def test_no_new_run_has_a_name_that_the_file_system_refuses(project: Path, name: str) -> None:
    with pytest.raises(UsageError, match="not the name of a run"):
        lookup.find_or_new(name)


def test_trainings_of_a_selftest_are_not_remembered(project: Path) -> None:
    end(train(f"outputs/{index.SELFTEST}/my-lora/straight"))
    assert lookup.all_runs() == []


def test_a_state_folder_that_cannot_be_written_stops_nothing(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(project / "my.yaml"))
    end(train())
    assert found("my.yaml") == str(project / "outputs/my-lora")
    assert lookup.all_runs() == []


def test_the_list_of_runs_names_each_by_what_can_be_typed(
    project: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end(train())
    end(train("outputs/other"))
    monkeypatch.chdir(elsewhere)
    end(train())
    done = CliRunner().invoke(cli, ["runs"])
    rows = [line.split() for line in done.output.splitlines()[2:]]
    names = {row[0] for row in rows}
    assert names == {"outputs/my-lora", str(project / "outputs/my-lora"), "other"}
    for name in names:
        lookup.find(name)
