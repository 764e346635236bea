"""Run folders as no program leaves them: garbage in our records, read-only, another's, gone.

Each command must answer, or refuse in a line or two; none may show a traceback or hang.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from faults.bench import SAVE_STEPS, Bench
from faults.results import Try
from leviathan_train.checkpoints import store
from leviathan_train.cli import main
from leviathan_train.errors import LeviathanError
from leviathan_train.run.folder import Run
from leviathan_train.run.records import End, Ending, Launch, RequestKind, SeamWord, Verdict
from leviathan_train.system.files import write_json
from leviathan_train.system.processes import Process
from support import runs
from support.driver import LEVIATHAN, processes_of, start

READING: tuple[tuple[str, ...], ...] = (
    ("status", "RUN"),
    ("status", "RUN", "--json"),
    ("history", "RUN"),
    ("history", "RUN", "--json"),
    ("runs",),
    ("runs", "--json"),
    ("checkpoints", "list", "RUN"),
    ("checkpoints", "list", "RUN", "--json"),
    ("checkpoints", "latest", "RUN"),
    ("checkpoints", "best", "RUN"),
    ("checkpoints", "show", "RUN", "--step", "20"),
    ("checkpoints", "verify", "RUN"),
    ("checkpoints", "export", "RUN"),
    ("checkpoints", "cleanup", "RUN", "--keep", "1", "--dry-run"),
    ("train", "CONFIG", "--dry-run", "--resume", "never"),
)
ASKING = (("pause", "RUN"), ("save", "RUN"), ("stop", "RUN"), ("stop", "RUN", "--now"))
DELETING = ("checkpoints", "cleanup", "RUN", "--keep", "1", "--yes")
WRONG: tuple[Any, ...] = (None, [], "x\x1b[31m", -(10**30))
SHORT = ("half", "all []", "all 1")
"""Kinds of garbage that every test run has time for."""
NOBODY = 65534
UNPRIVILEGED = ("setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner")
END = End(Ending.STOPPED, None, None, "", 0.0)
LINES = 3
"""What an error may say, at most."""

Answer = tuple[int, str, str]


def make_run(folder: Path) -> Run:
    """A run with two checkpoints, and one ended session that has every record there is."""
    run = Run(folder)
    for step in (10, 20):
        runs.seal(run, step)
        run.begin_save(f"checkpoint-{step}")
    session = runs.begin(run)
    runs.log(session, range(1, 21))
    runs.tell(run, session)
    session.screen_file.write_text("Step 1: loss=1.0\n")
    write_json(session.seam_file, {"word": SeamWord.CONTINUOUS, "cause": ""})
    assert isinstance(session.verdict, Verdict)
    session.ask(RequestKind.SAVE, "a test")
    write_json(session.path / "process-rank0.json", {"host": "", "pid": 1, "started": "x"})
    run.logs.mkdir()
    session.log.write_text("a line\n")
    runs.end_session(session, End(Ending.PAUSED, 20, "checkpoint-20", "Ctrl+C", 1.0))
    call(("checkpoints", "list", str(run.path)))  # writes the index
    return run


def call(args: Sequence[str]) -> Answer:
    """A command, in this process: exit status, stdout and stderr."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    status: Any = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(list(args))
        except SystemExit as end:
            status = end.code
        except BaseException as error:  # nothing passes the error boundary
            return -1, "", f"Traceback: {error!r}"
    texts = []
    for stream in (out, err):
        stream.flush()
        stream.seek(0)
        texts.append(stream.read())
    return int(status or 0), texts[0], texts[1]


def problem_of(args: Sequence[str], answer: Answer) -> str:
    """What is wrong with an answer; empty if nothing is."""
    status, out, err = answer
    if "Traceback" in err or "fault of leviathan itself" in err:
        return f"{' '.join(args)}: {err[-400:]}"
    if status not in {0, 1, 2, 75, 130}:
        return f"{' '.join(args)}: exit {status}"
    if status in {1, 2} and len(err.strip().splitlines()) > LINES:
        return f"{' '.join(args)}: {err}"
    if "--json" in args and status == 0:
        try:
            json.loads(out)
        except ValueError:
            return f"{' '.join(args)}: no JSON: {out[:200]}"
    return ""


def answers(run: Run, config: Path, commands: Sequence[Sequence[str]] = READING) -> str:
    """What the commands do wrong with a run; empty if nothing."""
    for command in commands:
        args = [{"RUN": str(run.path), "CONFIG": str(config)}.get(w, w) for w in command]
        if problem := problem_of(args, call(args)):
            return problem
    return ""


def records(run: Run) -> list[Path]:
    """Every file that leviathan itself writes into a run."""
    found = [path for path in sorted(run.records.rglob("*")) if path.is_file()]
    found += sorted(run.path.glob("checkpoint-*/leviathan.json"))
    return [*found, *sorted(run.logs.glob("*"))]


def garbage(text: bytes, dice: random.Random) -> Iterator[tuple[str, bytes]]:
    """What a file may hold instead."""
    yield "empty", b""
    yield "zeros", bytes(len(text) or 10)
    yield "half", text[: len(text) // 2]
    yield "noise", dice.randbytes(200)
    yield "nested", b"[" * 100_000
    yield "digits", b"1" * 5000
    yield "twice", text + text
    for other in (b"null", b"[]", b"{}", b'"x"', b"1e999", b'{"a": NaN}', b"[1, [2, {}]]\n"):
        yield other.decode(), other
    try:
        value = json.loads(text.splitlines()[0] if text.count(b"}\n") > 1 else text)
    except (ValueError, IndexError):
        return
    if isinstance(value, dict):
        for wrong in (*WRONG, -1, {}, 1e308, True, "9" * 400, 10**400):
            yield f"all {wrong!r}"[:20], json.dumps(dict.fromkeys(value, wrong)).encode()
        for key in value:
            for wrong in WRONG:
                yield f"{key}: {wrong}", json.dumps(value | {key: wrong}).encode()


def garbled(run: Run, config: Path, *, thorough: bool = False) -> list[Try]:
    """Put garbage into each of our own files, and ask every command.

    Args:
        thorough: of every kind in turn, and what is no file at all; else of a few kinds.
    """
    dice = random.Random(1)
    found = []
    for path in records(run):
        text = path.read_bytes()
        name = path.name if path.parent.name != "requests" else f"requests/x{path.suffix}"
        try:
            for kind, other in garbage(text, dice):
                if not thorough and not kind.startswith(SHORT):
                    continue
                path.write_bytes(other)
                problem = answers(run, config)
                problem = problem or answers(run, config, ASKING)
                fault = "garbage in a file of ours"
                found.append(Try(fault, problem=problem and f"{kind}: {problem}", seed=name))
            path.unlink()
            for kind, make in _others(path).items() if thorough else ():
                make()
                problem = answers(run, config)
                found.append(
                    Try(
                        "no file where one of ours was",
                        problem=problem and f"{kind}: {problem}",
                        seed=name,
                    )
                )
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        finally:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(text)
    return found


def _others(path: Path) -> dict[str, Callable[[], object]]:
    return {
        "a folder": path.mkdir,
        "a link to nothing": lambda: path.symlink_to("nothing"),
        "a link to itself": lambda: path.symlink_to(path.name),
    }


def command(args: Sequence[str], cwd: Path, before: Sequence[str] = ()) -> str:
    """What a command does wrong in a process of its own; empty if nothing.

    Args:
        before: what it is started by, such as `faketime`.
    """
    done = subprocess.run(
        [*before, LEVIATHAN, *args],
        cwd=cwd,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
    )
    return problem_of(args, (done.returncode, done.stdout, done.stderr))


def of_others(run: Run, config: Path) -> list[Try]:
    """A run that another user owns: what may be read is read, and nothing is changed.

    The commands are root's, who may read this Python, without root's right to every file.
    """
    found = []
    for path in (run.path, *run.path.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    for mode, fault in ((0o755, "run of another user"), (0o700, "run that may not be read")):
        run.path.chmod(mode)
        for words in (*READING, *ASKING, DELETING, ("train", "CONFIG", "--resume", "never")):
            args = [{"RUN": str(run.path), "CONFIG": str(config)}.get(w, w) for w in words]
            problem = command(args, run.path.parent, UNPRIVILEGED)
            found.append(Try(fault, problem=problem, seed=" ".join(words)))
    if not (run.path / "checkpoint-10/leviathan.json").exists():
        found[-1] = Try("run of another user", problem="checkpoint-10 is gone")
    return found


def written_never(run: Run, config: Path) -> list[Try]:
    """A run whose disk may only be read."""
    found = []
    with read_only(run.path):
        for words in (*READING, *ASKING, DELETING):
            problem = answers(run, config, [words])
            found.append(Try("run folder read-only", problem=problem, seed=" ".join(words)))
        problem = command(("train", str(config), "--resume", "never"), run.path.parent)
        found.append(Try("run folder read-only", problem=problem, seed="train"))
    return found


def clocks(run: Run, config: Path) -> list[Try]:
    """Commands after the clock was set."""
    found = []
    for shift in ("-1d", "+1d"):
        for words in (*READING, *ASKING):
            args = [{"RUN": str(run.path), "CONFIG": str(config)}.get(w, w) for w in words]
            problem = command(args, run.path.parent, ("faketime", "-f", shift))
            fault = f"clock set by {shift}"
            found.append(Try(fault, problem=problem, seed=" ".join(words)))
    return found


def locks(run: Run) -> list[Try]:
    """What a dead process, or one of another host, left behind as the run's holder."""
    found = []
    gone = {"host": Process.of().host, "pid": 2**22 - 1, "started": "0:1"}
    for host, heard, lives in (("", 0, False), ("elsewhere", 300, False), ("elsewhere", 10, True)):
        session = run.open_session(Launch())
        write_json(session.path / "process-cli.json", gone | ({"host": host} if host else {}))
        if host:
            launch = json.loads(session.launch_file.read_text()) | {"host": host}
            session.launch_file.write_text(json.dumps(launch))
            at = time.time() - heard
            os.utime(session.launch_file, (at, at))
        try:
            runs.end_session(run.open_session(Launch()), END)
            problem = "taken from a living session" if lives else ""
        except LeviathanError as error:
            named = "elsewhere" in error.message
            problem = "" if lives and named else f"{error.message}"
        runs.end_session(session, END)
        whose = f"{'a living' if lives else 'a dead'} process{' of another host' if host else ''}"
        found.append(Try(f"lock of {whose}", problem=problem))
    return found


def gone(bench: Bench, folder: Path, seed: int) -> Try:
    """A training whose run folder is moved away in the middle: it is in its new place, whole."""
    run, moved = folder / f"gone-{seed}", folder / f"gone-{seed}-moved"
    for path in (run, moved):
        shutil.rmtree(path, ignore_errors=True)
    bench.copy(run)
    dice, problem = random.Random(seed), ""
    wrong: list[str] = []
    started = start(bench.config, *bench.arguments(run), env=bench.env, run=run)
    try:
        session = started.wait(lambda s: s.get("step", 0) > SAVE_STEPS) and started.session()
        time.sleep(dice.uniform(0.0, 0.5))
        run.rename(moved)
        status, output = started.finish()
        problem = problem_of(["train"], (status, "", output[-400:])) if status else ""
        if left := processes_of(run):
            problem = f"{len(left)} processes are left"
        wrong = bench.wrong(moved)
        if not any(item.step >= SAVE_STEPS for item in store.scan(Run(moved)) if item.intact):
            problem = problem or "no checkpoint is left"
        assert session
    except AssertionError as error:
        problem = f"{error}"[:400]
        started.kill()
    for path in (run, moved):
        shutil.rmtree(path, ignore_errors=True)
    fault = "real training, run folder gone"
    return Try(fault, wrong=len(wrong), problem=problem, seed=str(seed))


@contextlib.contextmanager
def read_only(path: Path) -> Iterator[None]:
    """A folder mounted read-only; needs root."""
    subprocess.run(["mount", "--bind", str(path), str(path)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(path)], check=True)
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True)


@contextlib.contextmanager
def run_of_all(config: Path) -> Iterator[tuple[Run, Path]]:
    """A run, and a config for it, in a folder that every user may enter."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        run = make_run(folder / "run")
        values = yaml.safe_load(config.read_text()) | {"output_dir": str(run.path)}
        (folder / "config.yaml").write_text(yaml.safe_dump(values))
        yield run, folder / "config.yaml"
