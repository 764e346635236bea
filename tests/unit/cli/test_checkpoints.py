"""`leviathan checkpoints ...` as typed, and the shell functions around it."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pytest

from leviathan_train.cli import main
from leviathan_train.run.folder import Run
from support import shapes

ROOT = Path(__file__).resolve().parents[3]
LEVIATHAN = [sys.executable, "-c", "from leviathan_train.cli import main; main()", "checkpoints"]
ODD = 'my run\'s "best" $(false) `x` \n night; * é'
"""A folder's name with all that a shell or a terminal trips over."""


def run_of(folder: Path, steps: list[int]) -> Path:
    for step in steps:
        shapes.make(folder, step, sealed=True)
    return folder


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_of(tmp_path_factory.mktemp("five") / "run", [1000, 2000, 3000, 4000, 5000])


@pytest.fixture
def run(five: Path, tmp_path: Path) -> Path:
    """A run with five sealed checkpoints, to be changed."""
    return Path(shutil.copytree(five, tmp_path / "leviathan_10pct_a4000"))


def leviathan(*args: object) -> int:
    """Run `leviathan checkpoints ARGS` in this process and give its exit status."""
    with pytest.raises(SystemExit) as end:
        main(["checkpoints", *map(str, args)])
    return end.value.code if isinstance(end.value.code, int) else 0


def printed(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    assert leviathan(*args) == 0
    return capsys.readouterr().out


def value_of(capsys: pytest.CaptureFixture[str], *args: object) -> Any:
    return json.loads(printed(capsys, *args, "--json"))


def steps_of(run: Path) -> list[int]:
    return sorted(int(path.name.split("-")[1]) for path in run.glob("checkpoint-*"))


# -- list ------------------------------------------------------------------------------


def test_list_is_the_guides_table(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, "list", run).splitlines()
    assert lines[0].split()[:4] == ["Step", "Size", "Date", "Modified"]
    assert set(lines[1]) == {"-"}
    for line, step in zip(lines[2:7], range(1000, 6000, 1000), strict=True):
        assert re.match(rf"{step} +[\d.]+[KM] +\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d  ", line), line
        assert "intact" in line
    assert lines[6].endswith("latest")
    assert lines[-2] == "" and re.fullmatch(r"Total size: [\d.]+[KM]", lines[-1])


def test_list_says_what_it_did_not_read(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(run / ".leviathan/verified", ignore_errors=True)
    assert "Judged by structure and sizes: 5  (" in printed(capsys, "list", run)
    assert not any(item["is_read"] for item in value_of(capsys, "list", run)["checkpoints"])
    time.sleep(0.05)  # what changed within a tick of the clock is read again next time
    printed(capsys, "verify", run)
    assert "Judged" not in printed(capsys, "list", run)


def test_what_is_shown_is_read(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A damage that a look does not see: the newest is told as damaged, the one before is shown."""
    shutil.rmtree(run / ".leviathan/verified", ignore_errors=True)
    weights = run / "checkpoint-5000/adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert "latest" in printed(capsys, "list", run).splitlines()[6]
    assert "Step: 4000" in printed(capsys, "latest", run)
    assert "SHA-256" in printed(capsys, "show", run, "--step", "5000")


def test_list_sorts_by_number_and_passes_over_what_is_no_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_of(tmp_path, [10000, 900])
    (tmp_path / "checkpoint-5").write_text("a file")
    (tmp_path / "checkpoint-7").symlink_to("checkpoint-900")
    shutil.copytree(tmp_path / "checkpoint-900", tmp_path / "checkpoint-final")
    value = value_of(capsys, "list", tmp_path)
    assert [item["step"] for item in value["checkpoints"]] == [900, 10000]
    assert [item["latest"] for item in value["checkpoints"]] == [False, True]
    assert "Step: 10000" in printed(capsys, "latest", tmp_path)


def test_list_names_the_fault_of_a_damaged_one_and_marks_the_best(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (100, 200, 300):
        shapes.make(tmp_path, step, evals=100)
    (tmp_path / "checkpoint-300" / "optimizer.pt").unlink()
    lines = printed(capsys, "list", tmp_path).splitlines()
    assert "unsealed" in lines[3] and lines[3].endswith("latest, best")
    assert "damaged: optimizer.pt is missing: a resume would silently" in lines[4]


def test_an_empty_run_is_told_as_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / ".leviathan").mkdir()
    assert "has no checkpoint yet" in printed(capsys, "list", tmp_path)
    assert value_of(capsys, "list", tmp_path)["checkpoints"] == []
    assert "has no checkpoint yet" in printed(capsys, "verify", tmp_path)
    assert value_of(capsys, "export", tmp_path)["log_history"] == []
    assert "0 checkpoints remaining" in printed(capsys, "cleanup", tmp_path, "--keep=2", "--yes")
    assert not list((tmp_path / ".leviathan").iterdir())
    assert leviathan("latest", tmp_path) == 2
    assert "has no checkpoint yet" in capsys.readouterr().err


def test_a_single_checkpoint_is_listed_shown_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_of(tmp_path, [1])
    assert printed(capsys, "list", tmp_path).count("intact") == 1
    assert "1 checkpoint remaining." in printed(capsys, "cleanup", tmp_path, "--keep=1", "--yes")
    assert steps_of(tmp_path) == [1]


def test_an_odd_name_breaks_no_line_and_no_path(
    five: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(five, tmp_path / ODD))
    value = value_of(capsys, "list", run)
    assert value["run"] == ODD
    assert value["checkpoints"][0]["path"] == str(run / "checkpoint-1000")
    text = printed(capsys, "latest", run)
    assert r"\n night" in text and "\n night" not in text
    assert leviathan("export", run, "--output", run / "out put.json") == 0
    assert leviathan("cleanup", run, "--keep", 2, "--yes") == 0
    assert steps_of(run) == [4000, 5000]


# -- latest, best, show ----------------------------------------------------------------


def test_latest_is_the_guides_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shapes.make(tmp_path, 3000, evals=1000, sealed=True)
    text = printed(capsys, "latest", tmp_path)
    lines = text.splitlines()
    assert lines[:3] == ["=" * 48, "LATEST CHECKPOINT", "=" * 48]
    assert lines[3:5] == [f"Location: {tmp_path}/checkpoint-3000", "Step: 3000"]
    for line in (
        "Training State:",
        "  Current Step: 3000",
        "  Epoch: 30.00",
        "  Best Loss: 1",
        "  Last Loss: 1.7",
        "  Learning Rate: 3.333e-07",
        "Files:",
    ):
        assert line in lines
    for name in shapes.files(tmp_path / "checkpoint-3000"):
        assert re.search(rf"^  {re.escape(name)} \([\d.]+[BK]\)$", text, re.MULTILINE), name


def test_best_and_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shapes.make(tmp_path, 100, evals=100, best_metric=0.5, best_global_step=100)
    shapes.make(tmp_path, 200, evals=100, best_metric=0.5, best_global_step=100)
    assert "BEST CHECKPOINT" in (text := printed(capsys, "best", tmp_path)) and "Step: 100" in text
    value = value_of(capsys, "show", tmp_path, "--step", "checkpoint-200")
    assert (value["step"], value["best"], value["best_metric"]) == (200, False, 0.5)
    assert value["best_loss"] == 1.005


@pytest.mark.parametrize("step", ["7", "x", "²", "-1", ""])
@pytest.mark.parametrize("command", ["show", "verify", "reseal"])
def test_a_step_that_is_not_there_is_wrong_use(
    five: Path, capsys: pytest.CaptureFixture[str], command: str, step: str
) -> None:
    assert leviathan(command, five, f"--step={step}") == 2
    assert "Error:" in capsys.readouterr().err


def test_without_an_evaluation_best_is_wrong_use_and_says_why(
    five: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert leviathan("best", five) == 2
    assert "why" in capsys.readouterr().err


# -- verify ----------------------------------------------------------------------------


def test_verify_reads_and_names_each_and_ends_1_if_any_is_damaged(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "5 checkpoints verified: nothing is damaged." in printed(capsys, "verify", run)
    (run / "checkpoint-2000" / "scheduler.pt").write_bytes(b"")
    assert leviathan("verify", run) == 1
    out = capsys.readouterr().out
    assert "❌ checkpoint-2000" in out and "scheduler.pt has 0 bytes instead of" in out
    assert "1 of 5 checkpoints is damaged." in out
    assert leviathan("verify", run, "--step", 1000) == 0
    assert leviathan("verify", run, "--step", 2000, "--json") == 1


@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
@pytest.mark.parametrize("sealed", [True, False])
def test_a_disk_that_cannot_read_a_file_is_found_and_the_next_intact_one_is_latest(
    tmp_path: Path, sealed: bool
) -> None:
    for step in (10, 20):
        shapes.make(tmp_path, step, sealed=sealed)
    shutil.rmtree(tmp_path / ".leviathan" / "verified", ignore_errors=True)
    bad = tmp_path / "checkpoint-20" / "adapter_model.safetensors"
    strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-P", str(bad)]
    strace += ["-e", "trace=read,pread64", "-e", "inject=read,pread64:error=EIO"]
    done = subprocess.run(
        [*strace, *LEVIATHAN, "list", "--json", str(tmp_path)], capture_output=True, check=True
    )
    first, second = json.loads(done.stdout)["checkpoints"]
    assert second["reason"] == "adapter_model.safetensors cannot be read (Input/output error)"
    assert first["latest"] and not second["latest"]


# -- cleanup ---------------------------------------------------------------------------


def test_cleanup_is_the_guides_transcript_with_the_reasons_between(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = printed(capsys, "cleanup", run, "--keep", 2, "--yes").splitlines()
    assert lines[0] == "Found 5 checkpoints. Will delete 3 oldest."
    for line, step in zip(lines[6:9], (1000, 2000, 3000), strict=True):
        assert re.fullmatch(rf"  Deleting checkpoint-{step} \([\d.]+K\)\.\.\.", line)
    assert lines[9:] == ["", "✅ Cleanup complete. 2 checkpoints remaining."]
    assert lines[5].endswith("latest")
    assert "older than the newest 2" in lines[1]
    assert steps_of(run) == [4000, 5000]


def test_a_cleanup_of_nothing_but_damaged_ones_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (10, 20):
        (shapes.make(tmp_path / "run", step, sealed=True) / "optimizer.pt").unlink()
    with pytest.raises(SystemExit, match="0"):
        main(["checkpoints", "cleanup", "--keep", "1", "--dry-run", str(tmp_path / "run")])
    told = capsys.readouterr().out
    assert "Will delete 2" in told
    assert "Not one is intact: there is nothing to resume from." in told


def test_cleanup_keeps_the_best_and_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (100, 200, 300, 400):
        shapes.make(tmp_path, step, evals=100, best_global_step=100)
    text = printed(capsys, "cleanup", tmp_path, "--keep", 2, "--yes")
    assert "Will delete 1." in text
    assert re.search(r"keep    checkpoint-100 \(.*\): best \(eval loss 1.01\)", text)
    assert steps_of(tmp_path) == [100, 300, 400]
    printed(capsys, "cleanup", tmp_path, "--keep", 2, "--no-keep-best", "--yes")
    assert steps_of(tmp_path) == [300, 400]


@pytest.mark.parametrize(
    "options",
    [["--keep=0"], ["--keep=-1"], [], ["--keep=1", "--keep-every=0"], ["--superseded", "--keep=1"]],
)
def test_a_policy_without_sense_is_refused(five: Path, options: list[str]) -> None:
    assert leviathan("cleanup", five, *options, "--yes") == 2
    assert len(steps_of(five)) == 5


def test_a_dry_run_shows_the_plan_and_deletes_nothing(
    five: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "Will delete 4 oldest." in printed(capsys, "cleanup", five, "--keep=1", "--dry-run")
    value = value_of(capsys, "cleanup", five, "--keep=1", "--dry-run")
    assert (value["dry_run"], value["deleted"]) == (True, [])
    assert len(steps_of(five)) == 5


def test_without_a_terminal_and_without_yes_nothing_is_deleted(five: Path) -> None:
    for json_ in ([], ["--json"]):
        done = subprocess.run(
            [*LEVIATHAN, "cleanup", "--keep=1", *json_, str(five)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2
        assert "nothing was changed" in done.stderr and "--yes" in done.stderr
    assert len(steps_of(five)) == 5


def at_a_terminal(command: list[str], *answers: str) -> tuple[int, str]:
    """Type one answer at each question, at a terminal of its own."""
    ours, theirs = pty.openpty()

    def own_it() -> None:  # else Ctrl+C reaches nobody
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a background job ignores it

    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=own_it
    )
    os.close(theirs)
    screen, left, deadline = "", list(answers), time.monotonic() + 120
    while time.monotonic() < deadline:
        if select.select([ours], [], [], 0.1)[0]:
            try:
                screen += os.read(ours, 4096).decode()
            except OSError:  # the other side is closed
                break
        if left and screen.rstrip().endswith("(yes/no):"):
            screen += "\n"
            time.sleep(0.3)  # nobody types between the question and the read that follows it
            os.write(ours, left.pop(0).encode())
    os.close(ours)
    return process.wait(timeout=60), screen


@pytest.mark.parametrize(
    ("answers", "status", "left"),
    [
        (["yes\n"], 0, [4000, 5000]),
        (["maybe\n", "y\n"], 0, [4000, 5000]),
        (["no\n"], 130, [1000, 2000, 3000, 4000, 5000]),
        (["\n", "n\n"], 130, [1000, 2000, 3000, 4000, 5000]),
        (["\x04"], 130, [1000, 2000, 3000, 4000, 5000]),
        (["\x03"], 130, [1000, 2000, 3000, 4000, 5000]),
    ],
    ids=["yes", "maybe-y", "no", "empty-n", "ctrl-d", "ctrl-c"],
)
def test_at_a_terminal_the_plan_is_asked_about(
    run: Path, answers: list[str], status: int, left: list[int]
) -> None:
    ended, screen = at_a_terminal([*LEVIATHAN, "cleanup", "--keep=2", str(run)], *answers)
    assert screen.index("Found 5") < screen.index("Delete 3 checkpoints? (yes/no)")
    assert (ended, steps_of(run)) == (status, left)
    assert ("Cleanup complete" in screen) == (status == 0)
    assert ("Nothing was changed" in screen) == (status == 130)


def test_what_was_set_aside_is_shown_by_list_and_deleted_only_by_its_own_option(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    aside = run / "superseded" / "20241110_140000"
    aside.mkdir(parents=True)
    (run / "checkpoint-5000").rename(aside / "checkpoint-5000")
    assert "Set aside:" in printed(capsys, "list", run)
    printed(capsys, "cleanup", run, "--keep=1", "--yes")
    assert (aside / "checkpoint-5000").is_dir()
    assert leviathan("cleanup", run, "--superseded") == 2
    capsys.readouterr()
    assert value_of(capsys, "cleanup", run, "--superseded", "--dry-run")["deleted_bytes"] == 0
    assert value_of(capsys, "cleanup", run, "--superseded", "--yes")["superseded_bytes"] == 0
    assert not (run / "superseded").exists()
    assert leviathan("cleanup", run, "--superseded", "--yes") == 0


# -- export ----------------------------------------------------------------------------


def test_export_holds_steps_losses_rates_sizes_and_times(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "checkpoints.json"
    assert "Exported 5 checkpoints to" in printed(capsys, "export", run, "--output", file)
    value = json.loads(file.read_text())
    assert value == value_of(capsys, "export", run)
    assert [item["step"] for item in value["checkpoints"]] == steps_of(run)
    assert all(item["modified"] > 1e9 and item["bytes"] > 0 for item in value["checkpoints"])
    state = json.loads((run / "checkpoint-5000" / "trainer_state.json").read_text())
    assert value["log_history"] == state["log_history"]
    slices = [line for item in value["checkpoints"] for line in item["log_history"]]
    assert slices == state["log_history"]
    assert {"loss", "learning_rate", "step"} <= slices[0].keys()


def test_export_as_csv_has_a_line_for_each_logged_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (100, 200):
        shapes.make(tmp_path, step, every=50, evals=100)
    printed(capsys, "export", tmp_path, "--output", tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["step"] for row in rows] == ["50", "100", "150", "200"]
    assert rows[1]["loss"] and rows[1]["eval_loss"] == "1.01" and rows[1]["path"]
    assert not rows[0]["path"]


def test_an_evaluation_is_shown_only_where_it_was_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shapes.make(tmp_path, 100, every=50, evals=100)
    shapes.make(tmp_path, 150, every=50, evals=100)
    shutil.rmtree(tmp_path / "checkpoint-100")
    row, note, *_ = printed(capsys, "list", tmp_path).splitlines()[2:]
    assert re.search(r"150 .* -  +unsealed  latest, best\*$", row), row
    assert note == "* by the evaluation at step 100, the last before it"
    assert "Eval Loss: 1.01 (measured at step 100)" in printed(capsys, "best", tmp_path)
    printed(capsys, "export", tmp_path, "--output", tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="") as stream:
        told = {row["step"]: row["eval_loss"] for row in csv.DictReader(stream)}
    assert told == {"50": "", "100": "1.01", "150": ""}
    (tmp_path / "checkpoint-150" / "trainer_state.json").unlink()
    item = value_of(capsys, "list", tmp_path)["checkpoints"][0]
    assert item["eval_loss"] is None


def test_export_writes_null_for_what_json_cannot_say(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = {"loss": float("nan"), "step": 100, "deep": {"list": [float("inf"), 1.0]}}
    shapes.make(tmp_path, 100, log_history=[line, "no line", {"loss": 1.0}])
    told = value_of(capsys, "export", tmp_path)["log_history"]
    assert told == [{"loss": None, "step": 100, "deep": {"list": [None, 1.0]}}]


def test_export_goes_on_without_the_log_of_a_damaged_one(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "checkpoint-2000" / "trainer_state.json").unlink()
    value = value_of(capsys, "export", run)
    assert value["checkpoints"][1]["log_history"] == []
    assert value["checkpoints"][2]["log_history"][0]["step"] == 1010


@pytest.mark.parametrize("output", ["out.txt", "out", "none/out.json", "folder.json"])
def test_export_to_where_it_cannot_be_written_is_wrong_use(
    five: Path, tmp_path: Path, output: str
) -> None:
    (tmp_path / "folder.json").mkdir()
    assert leviathan("export", five, "--output", tmp_path / output) == 2


# -- reseal ----------------------------------------------------------------------------


def test_reseal_shows_what_changed_and_asks(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "checkpoint-5000" / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 9}')
    assert leviathan("reseal", run, "--step", 5000) == 2
    out = capsys.readouterr().out
    assert "adapter_config.json has changed (SHA-256 differs)" in out
    command = [*LEVIATHAN, "reseal", "--step=5000", str(run)]
    assert at_a_terminal(command, "no\n")[0] == 130
    assert leviathan("verify", run, "--step", 5000) == 1
    assert at_a_terminal(command, "yes\n")[0] == 0
    assert leviathan("verify", run, "--step", 5000) == 0
    assert "nothing to do" in printed(capsys, "reseal", run, "--step", 5000)


# -- the documented JSON ---------------------------------------------------------------


def keys(value: Any) -> Any:
    """The keys of a document, however deep, without its values."""
    if isinstance(value, dict):
        return {key: keys(part) for key, part in value.items()}
    return [keys(value[0])] if isinstance(value, list) and value else None


def test_the_documented_json_is_the_real_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "docs" / "checkpoints.md").read_text()
    found = re.findall(
        r"^### `(.+?) --json`\n.*?^```json\n(.*?)^```", text, re.MULTILINE | re.DOTALL
    )
    documented = {command: keys(json.loads(example)) for command, example in found}
    run = tmp_path / "run"
    for step in (10, 20):
        path = shapes.make(run, step)
        shapes.seal(path, versions=dict.fromkeys(documented["show"]["versions"], "1"))
    commands = {
        "list": ["list"],
        "show": ["show"],
        "verify": ["verify"],
        "export": ["export"],
        "cleanup": ["cleanup", "--keep=1", "--yes"],
        "cleanup --superseded": ["cleanup", "--superseded", "--yes"],
    }
    assert documented.keys() == commands.keys()
    for command, args in commands.items():
        real = keys(value_of(capsys, *args, run))
        assert real == documented[command], command
        assert list(real) == list(documented[command]), command


def test_the_documented_seal_is_the_real_one(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "checkpoints.md").read_text()
    table = text[text.index("## The seal") : text.index("## What cannot be seen")]
    documented = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    path = shapes.make(tmp_path, 10, sealed=True)
    value = json.loads((path / "leviathan.json").read_text())
    assert documented == list(value)
    row = next(line for line in table.splitlines() if line.startswith("| `facts`"))
    assert set(re.findall(r"`(\w+)`", row)) - {"facts"} == set(value["facts"])


# -- the shell functions ---------------------------------------------------------------

SHELLS = [shell for shell in ("bash", "zsh") if shutil.which(shell)]
FUNCTIONS = ROOT / "scripts" / "checkpoint_utils.sh"


def in_shell(shell: str, line: str, *args: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Source the functions by a relative path, as the guide does, and run a line with $1, $2."""
    text = f'source "$0"; {line}'
    script = os.path.relpath(FUNCTIONS, cwd)
    return subprocess.run(
        [shell, "-c", text, script, *map(str, args)],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("shell", SHELLS)
def test_the_shell_functions_keep_the_guides_transcripts(
    five: Path, tmp_path: Path, shell: str
) -> None:
    run = Path(shutil.copytree(five, tmp_path / ODD))
    done = in_shell(shell, 'list_checkpoints "$1"', run.name, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Step ") and "\nTotal size: " in done.stdout
    done = in_shell(shell, 'latest_checkpoint "$1"', run.name, cwd=tmp_path)
    assert "LATEST CHECKPOINT" in done.stdout and "Step: 5000" in done.stdout
    line = 'export_checkpoint_info "$1" "my file.json"'
    done = in_shell(shell, line, run.name, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    exported = json.loads((tmp_path / "my file.json").read_text())
    assert [item["step"] for item in exported["checkpoints"]] == steps_of(run)
    done = in_shell(shell, 'cleanup_checkpoints "$1" 2', run, cwd=tmp_path)
    assert done.stdout.startswith("Found 5 checkpoints. Will delete 3 oldest.\n"), done.stderr
    assert done.stdout.endswith("\n✅ Cleanup complete. 2 checkpoints remaining.\n")
    assert steps_of(run) == [4000, 5000]


@pytest.mark.parametrize("shell", SHELLS)
def test_the_shell_functions_hand_on_what_went_wrong(tmp_path: Path, shell: str) -> None:
    run = run_of(tmp_path / "run", [10])
    for line in ('cleanup_checkpoints "$1"', 'cleanup_checkpoints "$1" 0', "list_checkpoints none"):
        done = in_shell(shell, line, run, cwd=tmp_path)
        assert done.returncode == 2, (line, done.stdout)
        assert done.stderr
    done = in_shell(shell, 'force_checkpoint "$1"', run, cwd=tmp_path)
    assert done.returncode == 2 and "not training" in done.stderr
    assert Run(run).live_session() is None and steps_of(run) == [10]
