"""Tab: what is offered, by the protocol of the shells and in real ones."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pexpect
import pytest

from support.driver import LEVIATHAN

BIN = str(Path(LEVIATHAN).parent)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with two runs and two configs, one of which has a run of its own."""
    for step in (90, 100, 1000):
        (tmp_path / f"work/training/demo_cpu/checkpoint-{step}").mkdir(parents=True)
    (tmp_path / "work/training/a b/checkpoint-7").mkdir(parents=True)
    (tmp_path / "own/checkpoint-5").mkdir(parents=True)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/first.yaml").write_text("output_dir: work/training/demo_cpu\n")
    (tmp_path / "second.yml").write_text("base_model: x\noutput_dir: own\n")
    (tmp_path / "broken.yaml").write_text("a: [\n")
    (tmp_path / "notes.txt").touch()
    os.utime(tmp_path / "work/training/demo_cpu", (2e9, 2e9))  # the one used last
    return tmp_path


def offered(home: Path, line: str) -> list[str]:
    """What is offered for the word at the end of a line; `file` for files of the shell."""
    words = f"leviathan {line}"
    env = os.environ | {
        "_LEVIATHAN_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - (not words.endswith(" "))),
    }
    done = subprocess.run([LEVIATHAN], cwd=home, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    kinds = [entry.partition(",") for entry in done.stdout.split("\n") if entry]
    return [value if kind == "plain" else kind for kind, _, value in kinds]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("che", ["check", "checkpoints"]),
        ("checkpoints la", ["latest"]),
        ("train --max", ["--max-restarts"]),
        ("status ", ["file", "demo_cpu"]),  # a name with a space would have to be quoted
        ("plot demo_cpu d", ["file", "demo_cpu"]),
        ("pause zz", ["file"]),
        ("train ", ["file", "broken.yaml", "second.yml", "configs/first.yaml"]),
        ("train configs/", ["file", "configs/first.yaml"]),
        ("train /nowhere/", ["file"]),
        ("checkpoints show demo_cpu --step ", ["1000", "100", "90"]),
        ("checkpoints show demo_cpu --step 10", ["1000", "100"]),
        ("checkpoints verify --step 9", ["90"]),
        ("checkpoints reseal configs/first.yaml --step ", ["1000", "100", "90"]),
        ("checkpoints show nosuch --step ", []),
        ("checkpoints show broken.yaml --step ", []),
        ("train second.yml --resume ", ["file", "ask", "auto", "never", "latest", "best", "5"]),
        ("train --yes configs/first.yaml --resume 1", ["file", "1000", "100"]),
        ("merge demo_cpu --checkpoint ", ["file", "final", "best", "latest", "1000", "100", "90"]),
        ("nosuch st", ["stop", "status"]),
    ],
)
def test_what_is_offered(home: Path, line: str, words: list[str]) -> None:
    assert offered(home, line) == words


def test_nothing_heavy_is_imported_for_it(home: Path) -> None:
    code = (
        "import sys; from leviathan_train.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'transformers', 'numpy', 'rich'} & set(sys.modules), sys.modules"
    )
    env = os.environ | {
        "_LEVIATHAN_COMPLETE": "zsh_complete",
        "COMP_WORDS": "leviathan checkpoints show demo_cpu --step ",
        "COMP_CWORD": "5",
    }
    python = f"{BIN}/python"
    done = subprocess.run(
        [python, "-c", code], cwd=home, env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[:3] == ["plain", "1000", "_"]


def shell(home: Path, name: str, *options: str) -> pexpect.spawn[str]:
    """An interactive shell on a terminal, with the line of the README."""
    env = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "TERM": "dumb", "PS1": "$ "}
    child = pexpect.spawn(
        shutil.which(name) or name,
        [*options],
        cwd=str(home),
        env=env,
        encoding="utf-8",
        timeout=60,
        dimensions=(30, 160),
    )
    child.sendline(f'eval "$(_LEVIATHAN_COMPLETE={name}_source leviathan)"; echo rea""dy')
    child.expect("ready\r\n")
    return child


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash is installed")
def test_in_bash(home: Path) -> None:
    child = shell(home, "bash", "--norc", "--noprofile", "-i")
    child.send("leviathan checkpoints sho\tde\t--step 9\t\r")
    child.expect_exact("leviathan checkpoints show demo_cpu --step 90")
    child.expect_exact("$ ")
    child.send("leviathan train not\t")  # no word continues it, so that files do
    child.expect_exact("leviathan train notes.txt")
    child.sendcontrol("u")
    child.send("leviathan train co\t\r")
    child.expect_exact("leviathan train configs/first.yaml")
    child.close(force=True)


@pytest.mark.skipif(not shutil.which("zsh"), reason="no zsh is installed")
def test_in_zsh(home: Path) -> None:
    child = pexpect.spawn("zsh", ["-f", "-i"], cwd=str(home), encoding="utf-8", timeout=60)
    child.sendline(f"export PATH={BIN}:$PATH; autoload -U compinit; compinit -D -u; PS1='> '")
    child.sendline('eval "$(_LEVIATHAN_COMPLETE=zsh_source leviathan)"; echo rea""dy')
    child.expect("ready\r\n")
    child.send("leviathan checkpoints show demo_cpu --step 9\t")
    child.expect_exact("90")
    child.close(force=True)


@pytest.mark.skipif(not shutil.which("fish"), reason="no fish is installed")
def test_in_fish(home: Path) -> None:
    line = "leviathan checkpoints show demo_cpu --step 1"
    script = f"_LEVIATHAN_COMPLETE=fish_source leviathan | source; complete -C '{line}'"
    env = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(home)}
    done = subprocess.run(
        ["fish", "--no-config", "-c", script], cwd=home, env=env, capture_output=True, text=True
    )
    assert sorted(done.stdout.split()) == ["100", "1000"]
