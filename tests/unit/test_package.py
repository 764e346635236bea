"""What is published works away from the repository: the wheel runs, the sdist tests itself."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = [path for path in sys.path if Path(path).name in {"site-packages", "dist-packages"}]
"""Where the environment keeps what we depend on, and the tools of the tests."""


@dataclass(frozen=True)
class Built:
    """The unpacked sdist and the wheel that was built from it."""

    source: Path
    wheel: Path


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command that must succeed, without this checkout on its path."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    (sdist,) = out.glob("*.tar.gz")
    (wheel,) = out.glob("*.whl")
    with tarfile.open(sdist) as archive:
        archive.extractall(out, filter="data")
    return Built(out / sdist.name.removesuffix(".tar.gz"), wheel)


@pytest.fixture(scope="module")
def clean(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment with the wheel, and with the libraries of this one."""
    venv = tmp_path_factory.mktemp("clean")
    run(sys.executable, "-m", "venv", venv, cwd=venv)
    pip = (venv / "bin/python", "-m", "pip", "install", "--quiet", "--no-index", "--no-deps")
    run(*pip, built.wheel, cwd=venv)
    (site,) = venv.glob("lib/python*/site-packages")
    # Such a file adds the folders themselves; an editable installation in them stays unseen.
    (site / "libraries.pth").write_text("\n".join(LIBRARIES) + "\n")
    return venv / "bin"


def test_the_wheel_runs_by_itself(clean: Path) -> None:
    assert run(clean / "leviathan", "--version", cwd=clean).startswith("leviathan")
    assert "cleanup" in run(clean / "leviathan", "checkpoints", "--help", cwd=clean)
    where = "import leviathan_train.plugin as it; print(it.LeviathanPlugin.__name__, it.__file__)"
    name, file = run(clean / "python", "-c", where, cwd=clean).split()[-2:]
    assert name == "LeviathanPlugin"
    assert Path(file).is_relative_to(clean.parent)
    for name in ("py.typed", "ui/plot/page.html", "ui/plot/page.js"):
        assert (Path(file).parent / name).exists()


@pytest.mark.axolotl
def test_axolotl_has_it_as_a_command_of_its_own(clean: Path) -> None:
    axolotl = (clean / "python", "-c", "from axolotl.cli.main import main; main()")
    assert re.search(r"^  leviathan +Pause, resume", run(*axolotl, "--help", cwd=clean), re.M)
    help_ = run(*axolotl, "leviathan", "--help", cwd=clean)
    assert "Usage: leviathan [OPTIONS] COMMAND" in help_ and "Exit status:" in help_
    plan = run(*axolotl, "leviathan", "checkpoints", "cleanup", "--help", cwd=clean)
    assert "--keep-every K" in plan

    # Its exit statuses and its errors stay its own.
    command = [*map(str, axolotl), "leviathan", "status", "nothing"]
    refused = subprocess.run(command, cwd=clean, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "No run 'nothing'" in refused.stderr and "Traceback" not in refused.stderr


def test_the_sdist_holds_every_file_of_the_repository(built: Built) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a repository")
    listed = run("git", "ls-files", "-z", cwd=ROOT).split("\0")
    kept = {str(path.relative_to(built.source)) for path in built.source.rglob("*")}
    assert {name for name in listed if name and (ROOT / name).is_file()} <= kept


def test_the_tests_run_in_the_unpacked_sdist(built: Built, clean: Path) -> None:
    pytest_ = (clean / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider")
    told = run(*pytest_, "--collect-only", cwd=built.source)
    assert "tests/real/test_train.py::" in told and "tests/unit/test_docs.py::" in told
    reading = ("tests/unit/test_docs.py", "tests/unit/test_scripts.py")
    assert " passed" in run(*pytest_, *reading, cwd=built.source)
