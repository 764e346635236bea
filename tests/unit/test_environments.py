"""The script that makes the environment, and CI's choice, with stand-ins for Python and uv."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PYTHON = """#!/bin/bash
# A Python of version VERSION: it answers which one it is, makes environments, and is pip.
case "$*" in
    -V) echo "Python VERSION.9" ;;
    "-c "*version_info*) [[ "$2" == *"'VERSION'"* ]] ;;
    "-c "*metadata*) echo "Axolotl 0.0" ;;
    "-c "*) ;;
    "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    "-m pip --version") ;;
    "-m pip install "*)
        echo "python VERSION: pip ${*: -1}" >>"$CALLS"
        seq -f "Collecting package-%g" 400
        if [[ -n $PIP_FAILS ]]; then
            echo "WARNING: something old"
            echo "ERROR: Cannot install a and b"
            echo
            echo "The conflict is caused by:"
            echo "    a 1 depends on c<2"
            exit 1
        fi
        cp "$0" "$(dirname "$0")/leviathan" ;;
    *) echo "unexpected: $*" >&2; exit 99 ;;
esac
"""
SHIM = "#!/bin/bash\necho 'pyenv: command not found' >&2\nexit 127\n"
UV = """#!/bin/bash
case "$*" in
    "python find "*) exit 1 ;;
    "venv "*) echo "uv venv" >>"$CALLS"; mkdir -p "${*: -1}/bin"; cp "$4" "${*: -1}/bin/python" ;;
    "pip install "*) echo "uv pip ${*: -1}" >>"$CALLS"; touch "$(dirname "$5")/leviathan"
                     chmod +x "$(dirname "$5")/leviathan" ;;
    *) echo "unexpected: $*" >&2; exit 99 ;;
esac
"""
TOOLS = "basename bash cat chmod cksum cp dirname grep mkdir readlink rm sed seq tail tee touch"


@dataclass(frozen=True)
class Machine:
    """A machine with its own PATH, its pyenv, and a copy of the repository's script."""

    root: Path

    def put(self, where: str, text: str) -> None:
        path = self.root / where
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def python(self, version: str, where: str) -> None:
        self.put(where, PYTHON.replace("VERSION", version))

    def make(self, *args: str, pip_fails: str = "") -> subprocess.CompletedProcess[str]:
        env = {
            "PATH": str(self.root / "bin"),
            "HOME": str(self.root),
            "CALLS": str(self.root / "calls"),
            "PIP_FAILS": pip_fails,
        }
        script = [str(self.root / "repo/scripts/make_venv.sh"), *args]
        return subprocess.run(script, env=env, capture_output=True, text=True)

    def calls(self) -> list[str]:
        path = self.root / "calls"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    (tmp_path / "bin").mkdir()
    (tmp_path / "repo/scripts").mkdir(parents=True)
    for name in TOOLS.split():
        found = shutil.which(name)
        assert found, name
        os.symlink(found, tmp_path / "bin" / name)
    os.symlink(shutil.which("env") or "", tmp_path / "bin/env")
    shutil.copy(ROOT / "scripts/make_venv.sh", tmp_path / "repo/scripts")
    (tmp_path / "repo/pyproject.toml").write_text("version 1\n")
    return Machine(tmp_path)


def test_pip_is_quiet_and_called_once(machine: Machine) -> None:
    machine.python("3.12", "bin/python3.12")
    first = machine.make("dev")
    assert (first.returncode, first.stderr) == (0, "")
    told = first.stdout.splitlines()
    assert told[0] == "Installing Axolotl and leviathan into .venv (Python 3.12.9): some minutes."
    assert told[1].endswith("s: Axolotl 0.0.") and len(told) == 2
    again = machine.make("dev")
    assert (again.returncode, again.stdout) == (0, "")
    assert machine.calls() == ["python 3.12: pip .[dev]"]


def test_a_changed_project_is_installed_again(machine: Machine) -> None:
    machine.python("3.12", "bin/python3.12")
    machine.make()
    (machine.root / "repo/pyproject.toml").write_text("version 2\n")
    assert machine.make().returncode == 0
    assert machine.calls() == ["python 3.12: pip ."] * 2


def test_an_error_of_pip_is_shown_whole_and_nothing_else_of_it(machine: Machine) -> None:
    machine.python("3.12", "bin/python3.12")
    failed = machine.make(pip_fails="yes")
    assert failed.returncode == 1
    assert failed.stderr.startswith("ERROR: Cannot install a and b\n")
    assert "    a 1 depends on c<2\n" in failed.stderr
    assert "Collecting" not in failed.stdout + failed.stderr
    log = machine.root / "repo/.venv/install.log"
    assert str(log) in failed.stderr and "Collecting package-7\n" in log.read_text()
    assert machine.make().returncode == 0, "the next start installs"


def test_a_version_gets_an_environment_of_its_own(machine: Machine) -> None:
    machine.python("3.11", "bin/python3.11")
    machine.python("3.13", "bin/python3.13")
    assert machine.make("dev").returncode == 0
    assert machine.make("--python", "3.13", "dev").returncode == 0
    assert machine.calls() == ["python 3.11: pip .[dev]", "python 3.13: pip .[dev]"]
    assert (machine.root / "repo/.venv-3.13/bin/leviathan").exists()


def test_a_python_behind_a_shim_of_pyenv_is_found(machine: Machine) -> None:
    machine.put("bin/python3.12", SHIM)
    machine.python("3.12", ".pyenv/versions/3.12.1/bin/python")
    machine.python("3.10", "bin/python3")
    assert machine.make("--python", "3.12").returncode == 0
    assert machine.calls() == ["python 3.12: pip ."]


def test_an_environment_that_is_there_keeps_its_python(machine: Machine) -> None:
    machine.python("3.11", "bin/python3.11")
    machine.python("3.12", "repo/.venv/bin/python")
    assert machine.make().returncode == 0
    assert machine.calls() == ["python 3.12: pip ."]


@pytest.mark.parametrize("version", ["", "3.13"])
def test_a_missing_python_is_told_with_the_way_to_get_it(machine: Machine, version: str) -> None:
    machine.python("3.10", "bin/python3")
    machine.put("bin/python3.13", SHIM)
    missing = machine.make(*(["--python", version] if version else []))
    assert missing.returncode == 69
    assert f"No Python {version or '3.11, 3.12 or 3.13'} with its venv" in missing.stderr
    assert f"sudo apt install python{version or '3.12'} " in missing.stderr
    assert machine.calls() == []


def test_uv_is_used_where_it_is_there(machine: Machine) -> None:
    machine.python("3.12", "bin/python3.12")
    machine.put("bin/uv", UV)
    done = machine.make("dev")
    assert done.returncode == 0, done.stderr
    assert machine.calls() == ["uv venv", "uv pip .[dev]"]


@pytest.mark.parametrize(
    ("here", "other", "status", "expected", "told"),
    [
        ("3.11", "3.12", 0, 0, ""),
        ("3.13", "3.11", 0, 0, ""),
        ("3.11", "3.12", 1, 1, ""),
        ("3.11", "3.12", 69, 0, "Not tested on Python 3.12: it is not on this machine."),
    ],
)
def test_both_generations_of_axolotl_are_tested_where_both_pythons_are(
    tmp_path: Path, here: str, other: str, status: int, expected: int, told: str
) -> None:
    for name in (".ci", "scripts", ".venv/bin", "bin"):
        (tmp_path / name).mkdir(parents=True)
    shutil.copy(ROOT / ".ci/run", tmp_path / ".ci")
    stand_ins = {
        "scripts/test.sh": f'echo "$*" >>calls\n[[ $# == 0 ]] || exit {status}\n',
        "scripts/make_venv.sh": 'echo "$*" >made\n',
        ".venv/bin/python": f"exit {int(here != '3.11')}\n",
        "bin/slurmctld": "",  # else it would be installed
    }
    for name, text in stand_ins.items():
        (tmp_path / name).write_text("#!/bin/bash\n" + text)
        (tmp_path / name).chmod(0o755)

    done = subprocess.run(
        ["bash", ".ci/run"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"},
    )

    assert (done.returncode, done.stdout.strip()) == (expected, told)
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls == ["", f"--python {other} -m axolotl"]
    assert (tmp_path / "made").read_text() == "--python 3.12 dev\n"
