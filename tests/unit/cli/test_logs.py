"""`leviathan logs`: all of the log, whole in a pipe and harmless on a terminal."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pexpect
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leviathan_train.run.folder import Run
from leviathan_train.run.records import End, Ending, Launch
from leviathan_train.run.session import Session
from leviathan_train.ui.log import Harmless
from support.driver import LEVIATHAN, leviathan
from support.runs import end_session

CONTENT = (
    "Step 1: loss=1\r\n\x1b[31mred\x1b[0m \x1b]0;title\x07 50%\r100%\nlast é".encode() + b"\xff"
)


@pytest.fixture
def session(tmp_path: Path) -> Session:
    run = Run(tmp_path / "work/training/demo")
    session = run.open_session(Launch())
    run.logs.mkdir()
    session.log.write_bytes(CONTENT)
    return session


def test_a_pipe_gets_the_log_byte_for_byte(session: Session, tmp_path: Path) -> None:
    end_session(session, End(Ending.PAUSED, 1, None, "", 1.0))
    for options in ([], ["--follow"]):
        done = subprocess.run([LEVIATHAN, "logs", *options], cwd=tmp_path, capture_output=True)
        assert (done.returncode, done.stdout) == (0, CONTENT)
        assert done.stderr == b"Run: demo\n"


def test_json_names_the_file_and_holds_its_lines(
    session: Session, tmp_path: Path, env: dict[str, str]
) -> None:
    done = leviathan("logs", "demo", "--json", cwd=tmp_path, env=env, check=0)
    value = json.loads(done.stdout)
    assert session.log.samefile(tmp_path / value["path"])
    assert (value["bytes"], value["lines"][-1]) == (len(CONTENT), "last é\N{REPLACEMENT CHARACTER}")


def test_what_is_missing_is_told_in_a_line(
    session: Session, tmp_path: Path, env: dict[str, str]
) -> None:
    session.log.unlink()
    for words, told in [
        (["logs", "demo"], "demo has no log"),
        (["logs", "demo", "--follow"], "demo has no log"),
        (["logs", "demo", "--follow", "--json"], "cannot be combined"),
        (["status", "demo", "--watch", "--json"], "cannot be combined"),
        (["logs", "dem"], "Did you mean demo?"),
    ]:
        done = leviathan(*words, cwd=tmp_path, env=env, check=2)
        assert told in done.stderr and len(done.stderr.splitlines()) <= 2
        assert not done.stdout


def test_ctrl_c_ends_only_the_following(
    session: Session, tmp_path: Path, env: dict[str, str]
) -> None:
    child = pexpect.spawn(
        LEVIATHAN, ["logs", "demo", "--follow"], cwd=str(tmp_path), env=env, timeout=60
    )
    child.expect_exact(b"\x1b[31mred\x1b[0m \\x1b]0;title\\x07 50%\r\n100%\r\nlast \xc3\xa9")
    with session.log.open("a") as stream:
        stream.write(" more\n")
    child.expect_exact(b" more\r\n")
    time.sleep(0.3)
    child.sendintr()
    child.expect(pexpect.EOF)
    child.close()
    assert (child.exitstatus, child.signalstatus) == (0, None)
    assert session.end is None


@given(st.text(alphabet="a\x1b[3;1m\r\n\té\x07]0", max_size=30), st.integers(1, 5), st.booleans())
def test_however_a_log_is_cut_a_terminal_gets_the_same(text: str, size: int, colour: bool) -> None:
    content = text.encode()

    def shown(size: int) -> str:
        harmless = Harmless(colour=colour)
        told = [harmless.text(content[at : at + size]) for at in range(0, len(content), size)]
        return "".join([*told, harmless.text(b"", final=True)])

    whole = shown(len(content) or 1)
    assert shown(size) == whole
    assert not set("\r\x07") & set(whole)
    assert colour or "\x1b" not in whole
