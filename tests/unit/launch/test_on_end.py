"""The command of `--on-end`: run once whatever the end, and it changes nothing of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from leviathan_train.errors import LeviathanError, UsageError
from leviathan_train.launch import follow
from leviathan_train.launch.on_end import on_end
from leviathan_train.run.folder import Run
from leviathan_train.run.records import Cause, End, Ending, Launch
from leviathan_train.system.processes import Process, wait_until
from support import shapes
from support.driver import leviathan
from support.runs import end_session

NAMES = ("RUN", "PATH", "STATUS", "END", "STEP", "WHY")
TELL = "; ".join(f'echo "$LEVIATHAN_{name}"' for name in NAMES)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "night")


def told(run: Run, path: Path) -> dict[str, str]:
    """What a command was told; it must have been run once."""
    lines = path.read_text().splitlines()
    assert len(lines) == len(NAMES), lines
    found = dict(zip(NAMES, lines, strict=True))
    assert (found.pop("RUN"), found.pop("PATH")) == ("night", str(run.path))
    return found


def test_the_command_is_told_how_it_ended(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with on_end(f"({TELL}) >> {out}", run, print) as result:
        result.end = End(Ending.PAUSED, 40, "checkpoint-40", "Ctrl+C\n (a person)", 1.0)
        result.status = 75
        assert not out.exists()
    paused = {"STATUS": "75", "END": "paused", "STEP": "40", "WHY": "Ctrl+C (a person)"}
    assert told(run, out) == paused


@pytest.mark.parametrize(
    ("error", "status", "kind", "why"),
    [
        (LeviathanError("Training failed: no"), "1", "crashed", "Training failed: no"),
        (UsageError("lora_r must stay"), "2", "crashed", "lora_r must stay"),
        (OSError("disk full"), "1", "crashed", "disk full"),
        (KeyboardInterrupt(), "130", "stopped", "Ctrl+C"),
    ],
)
def test_an_error_is_an_end_and_passes(
    run: Run, tmp_path: Path, error: BaseException, status: str, kind: str, why: str
) -> None:
    shapes.make(run.path, 30, sealed=True)
    out = tmp_path / "out"
    with pytest.raises(type(error)), on_end(f"({TELL}) >> {out}", run, print):
        raise error
    assert told(run, out) == {"STATUS": status, "END": kind, "STEP": "30", "WHY": why}


def test_a_crash_is_told_as_it_was_recorded(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shapes.make(run.path, 5, sealed=True)
    with pytest.raises(LeviathanError), on_end(f"({TELL}) >> {out}", run, print) as result:
        result.end = End(Ending.CRASHED, 7, None, "CUDA out of memory", 1.0, Cause.GPU_MEMORY)
        raise LeviathanError("Training failed: CUDA out of memory")
    crashed = {"STATUS": "1", "END": "crashed", "STEP": "5", "WHY": "CUDA out of memory"}
    assert told(run, out) == crashed


def test_a_training_that_is_not_ours_has_not_ended(run: Run, tmp_path: Path) -> None:
    theirs = run.open_session(Launch())
    parent = Process.of(os.getppid())
    theirs.add_process(parent, "cli")
    with pytest.raises(LeviathanError), on_end(f"touch {tmp_path}/out", run, print):
        run.open_session(Launch())
    assert not (tmp_path / "out").exists()
    end_session(theirs, End(Ending.PAUSED, 4, None, "", 1.0))
    with pytest.raises(LeviathanError), on_end(f"touch {tmp_path}/out", run, print):
        ours = run.open_session(Launch())
        ours.close(End(Ending.CRASHED, 4, None, "", 1.0))
        run.open_session(Launch()).add_process(parent, "cli")  # somebody was faster
        run.open_session(Launch())
    assert (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("exit 3", "--on-end failed with exit status 3."),
        ("nosuchcommand 2> /dev/null", "--on-end failed with exit status 127."),
        ("kill -9 $$", "--on-end was killed by SIGKILL."),
        ("x" * 3_000_000, "--on-end could not be started: "),
    ],
)
def test_its_failure_is_a_line_and_no_more(run: Run, command: str, line: str) -> None:
    heard: list[str] = []
    with on_end(command, run, heard.append) as result:
        result.end, result.status = End(Ending.FINISHED, 9), 0
    assert result.status == 0
    (one,) = heard
    assert one.startswith(line)


def test_ctrl_c_ends_the_waiting_and_not_the_command(run: Run, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from leviathan_train.launch.on_end import on_end; from leviathan_train.run.folder import"
        " Run; from leviathan_train.run.records import End\n"
        "with on_end(sys.argv[1], Run(Path('night')), print) as result: result.end = End()\n"
        "print('exit')"
    )
    command = "touch began; sleep 1; touch done"
    child = subprocess.Popen(
        [sys.executable, "-c", code, command],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert wait_until((tmp_path / "began").exists, 30)
    os.killpg(child.pid, signal.SIGINT)  # as a terminal does: the whole group
    output, _ = child.communicate(timeout=30)
    assert output.splitlines()[0].startswith("No longer waiting for --on-end: it continues")
    assert output.splitlines()[1:] == ["exit"]
    assert wait_until((tmp_path / "done").exists, 30)


def test_it_cannot_be_asked_anything(run: Run, tmp_path: Path) -> None:
    began = time.monotonic()
    with on_end(f"cat > {tmp_path}/out", run, print) as result:
        result.end = End()
    assert (tmp_path / "out").read_bytes() == b""
    assert time.monotonic() - began < 60


def test_the_record_of_a_launch_leaves_it_out() -> None:
    words = ("leviathan", "train", "c.yaml", "--on-end", "curl -H 'X: secret'", "--yes")
    kept = ["leviathan", "train", "c.yaml", "--yes", "--", "--on-end", "x"]
    assert list(follow._recordable((*words, "--", "--on-end", "x"))) == kept


def test_an_empty_command_is_refused(tmp_path: Path, env: dict[str, str]) -> None:
    (tmp_path / "c.yaml").write_text("output_dir: run\n")
    done = leviathan("train", "c.yaml", "--on-end", " ", cwd=tmp_path, env=env, check=2)
    assert "--on-end is empty" in done.stderr
