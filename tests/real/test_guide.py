"""Every command of docs/guide.md does what it is there for, typed as it is printed.

The project in which they are typed has the repository's scripts, and under the names of the
shipped configs a tiny one that trains on a CPU; nothing else is replaced. Each command has a
terminal, and its questions are answered with yes, as a reader would.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pexpect
import pytest
import yaml

from support import guide
from support.demo import ROOT, MakeConfig
from support.driver import LEVIATHAN, PATIENCE, Started, start

pytestmark = pytest.mark.train

RUN = Path("work/training/leviathan_10pct_a4000")
CONFIGS = ("leviathan_10pct_a4000", "leviathan_full_a4000", "demo_cpu")

NOT_HERE = {"nvidia-smi": "there is no NVIDIA driver where the tests run"}
"""Commands that are not typed, and why."""

STARTS = "./scripts/train_10pct_a4000.sh"
"""The command that is typed to resume, with nothing left out."""
WHILE_IT_TRAINS = ("leviathan save", "leviathan status --watch")
ENDS_IT = ("leviathan pause", "leviathan stop --now")
WHEN_FINISHED = ("leviathan merge",)


def is_a_start(command: str) -> bool:
    return command.startswith(("./scripts/train_", "leviathan train "))


def at_rest() -> list[str]:
    """What is typed beside a paused run; a start is planned by --dry-run, and not carried out."""
    special = {*NOT_HERE, *WHILE_IT_TRAINS, *ENDS_IT, *WHEN_FINISHED}
    return [command for command in dict.fromkeys(guide.commands()) if command not in special]


@pytest.fixture(scope="module")
def paused(
    tmp_path_factory: pytest.TempPathFactory, make_config: MakeConfig, env: dict[str, str]
) -> Path:
    """A project whose 10% run has the checkpoints 50 and 100, and was paused after them."""
    project = tmp_path_factory.mktemp("guide") / "project"
    shutil.copytree(ROOT / "scripts", project / "scripts")
    (project / "configs").mkdir()
    (project / ".venv/bin").mkdir(parents=True)
    (project / ".venv/bin/leviathan").symlink_to(LEVIATHAN)
    for name in CONFIGS:
        made = make_config(
            project,
            output_dir=f"work/training/{name}",
            micro_batch_size=1,
            gradient_accumulation_steps=1,
            save_steps=50,
            eval_steps=50,
            logging_steps=5,
            num_epochs=3,  # the pause must come well before the end
        )
        values = yaml.safe_load(made.read_text())
        (project / "configs" / f"{name}.yaml").write_text(yaml.safe_dump(values))
        made.unlink()
    started = train(project, 105, env)
    started.signal()
    assert started.finish()[0] == 75
    return project


def train(project: Path, step: int, env: dict[str, str], *args: str) -> Started:
    """Start the 10% run of a project, and wait until it has done `step` steps."""
    config = project / f"configs/{RUN.name}.yaml"
    started = start(config, *args, env=env, run=project / RUN, cwd=project)
    started.step(step)
    return started


@pytest.fixture
def project(paused: Path, tmp_path: Path) -> Path:
    """A copy of the project, for one command."""
    return Path(shutil.copytree(paused, tmp_path / "project", symlinks=True))


class Shell:
    """A reader's terminal: type a command, answer yes, read what it printed."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self._folder = folder
        path = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
        self._env = env | {"PATH": path, "TERM": "xterm-256color"}

    def type(self, command: str, until: str = "") -> tuple[int | None, str]:
        """Exit status and output; with `until`, Ctrl+C is pressed when that is shown."""
        child = pexpect.spawn(
            "bash",
            ["-c", command],
            cwd=str(self._folder),
            env=self._env,
            encoding="utf-8",
            timeout=PATIENCE,
            dimensions=(50, 200),
        )
        told = ""
        while True:
            found = child.expect(
                [pexpect.EOF, r"\((yes/\w+(/\w+)*|keep/\w+/no)\): ", until or "\0"]
            )
            told += f"{child.before}{child.after if found else ''}"
            if found == 1:
                child.sendline("yes")
            elif found == 2:
                child.sendintr()
                until = ""
            else:
                break
        child.close()
        return child.exitstatus, told


@pytest.fixture
def shell(project: Path, env: dict[str, str], tmp_path: Path) -> Shell:
    return Shell(project, env | {"XDG_STATE_HOME": str(tmp_path / "state")})


@pytest.mark.parametrize("command", at_rest())
def test_a_command_is_typed_beside_a_paused_run(shell: Shell, command: str) -> None:
    if is_a_start(command):
        command = f"{command} --dry-run"
    status, told = shell.type(command)
    assert status == 0, told
    assert "Traceback" not in told
    if is_a_start(command):
        assert "axolotl.cli.train" in told or "is already finished" in told


@pytest.fixture(scope="module")
def finished(paused: Path, env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project whose run was resumed as the guide says, and finished."""
    folder = tmp_path_factory.mktemp("finished") / "project"
    shutil.copytree(paused, folder, symlinks=True)
    status, told = Shell(folder, env).type(STARTS)
    assert status == 0, told
    for line in ("FOUND EXISTING CHECKPOINT", "Resume from checkpoint-", "Loaded optimizer state"):
        assert line in told
    assert "Same rows in the same order" in told and "continuous" in told
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("command", WHEN_FINISHED)
def test_a_command_is_typed_when_the_run_is_finished(
    finished: Path, env: dict[str, str], command: str
) -> None:
    status, told = Shell(finished, env).type(command)
    assert status == 0, told
    assert (finished / "models" / f"{RUN.name}-merged" / "config.json").is_file()


@pytest.mark.slow
def test_commands_are_typed_while_it_trains(
    project: Path, shell: Shell, env: dict[str, str]
) -> None:
    longer = ("--resume", "auto", "--set", "num_epochs=100")
    for ending in ENDS_IT:
        started = train(project, 110, env, *longer)
        try:
            for command in (*WHILE_IT_TRAINS, ending):
                closes = "closes this screen" if "--watch" in command else ""
                status, told = shell.type(command, until=closes)
                assert status == 0, told
        except BaseException:
            started.signal()
            raise
        assert started.finish()[0] == 75


def test_no_command_is_left_out() -> None:
    known = guide.commands()
    assert len(known) > 40
    for command in (*NOT_HERE, *WHILE_IT_TRAINS, *ENDS_IT, *WHEN_FINISHED, STARTS):
        assert command in known, command
