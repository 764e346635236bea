"""System calls that fail with EIO, ENOSPC or EDQUOT, one by one, by strace.

Two kinds of tries: the product's own save, seal, index and retention (`faults.writer`), where each
single call of the whole fails once; and trainings on the real Axolotl, where every call on one
file fails for good.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import yaml

from faults import disks
from faults.bench import Bench, environment, last_logged, settings
from faults.disks import lift_quota, quota, tmpfs
from faults.power import Writer, judge
from faults.results import Try
from leviathan_train.checkpoints import store
from leviathan_train.run.folder import Run
from leviathan_train.run.records import Launch
from leviathan_train.run.session import Session
from support.forked import Forge, Outcome

ERRORS = ("EIO", "ENOSPC", "EDQUOT")
CALLS = {
    "write": "write,writev,pwrite64",
    "fsync": "fsync,fdatasync",
    "rename": "rename,renameat,renameat2",
    "mkdir": "mkdir,mkdirat",
    "open": "open,openat,creat",
    "link": "link,linkat",
    "unlink": "unlink,unlinkat,rmdir",
}
FIRST, LAST, SAVE_STEPS = 4, 24, 4
SAVES = 3
PARTS = (0.0, 0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 1.0, 1.15, 1.3)
"""Of a save, for which a full disk has room."""
ROOM = 400_000
"""Bytes that btrfs wants to have left of a quota for its own records, and some for ours."""
ATTACH = "FAULTS_STRACE"
"""Environment variable for strace's arguments."""
BEGUN = "FAULTS_BEGUN"
"""Environment variable for a file: strace waits until it is there."""
PR_SET_PTRACER = 0x59616D61
_making = threading.Lock()


def missing() -> str:
    """What is not here; empty if nothing is."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    probe = ("strace", "-o", "/dev/null", "true")
    return "" if subprocess.run(probe, check=False).returncode == 0 else "strace may not trace"


def one_by_one(call: str, folder: Path, prepared: Path, every: int = 1) -> list[Try]:
    """Let the first, the second, ... call of its kind fail in some saves of the writer.

    Args:
        every: pass over all but each so-many-th.
    """
    found: list[Try] = []
    for number in range(1, 300, every):
        error = ERRORS[number % len(ERRORS)]
        run = Run(folder / f"injected-{call}-{number}")
        shutil.rmtree(run.path, ignore_errors=True)
        inject = f"inject={CALLS[call]}:error={error}:when={number}"
        strace = ["strace", "-f", "-qq", "-o", str(run.path) + ".trace", "-e", inject]
        writer = Writer("saves", run.path, prepared, SAVES, strace)
        status = writer.finish()
        hit = "(INJECTED)" in Path(str(run.path) + ".trace").read_text(errors="replace")
        lost, wrong, problem = judge(run, writer, prepared)
        if not problem and status == 0 and writer.last("kept") != SAVES * 10:
            problem = "ended before its last save, and told nobody"
        shutil.rmtree(run.path, ignore_errors=True)
        os.unlink(str(run.path) + ".trace")
        if not hit:
            break  # there are not so many calls of this kind
        found.append(Try(f"{call} fails in a save", True, lost, 0, wrong, 0, problem, f"{number}"))
    return found


def make(folder: Path, forge: Forge) -> Bench:
    """A run of some steps that was never disturbed, made by forked trainings."""
    with _making:  # parts of a round run side by side
        return _make(folder.resolve(), forge)  # strace compares names with those of open files


def _make(folder: Path, forge: Forge) -> Bench:
    bench = Bench(folder, 1, environment())
    if (folder / "made").exists():
        return bench
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    values = settings(folder, bench.env) | {
        "max_steps": LAST,
        "eval_steps": LAST,
        "save_steps": SAVE_STEPS,
        "dataloader_num_workers": 0,
    }
    bench.config.write_text(yaml.safe_dump(values))
    forge.must_train(bench.config)
    (folder / "first").mkdir()
    first = folder / f"run/checkpoint-{FIRST}"
    shutil.copytree(first, folder / "first" / first.name)
    (folder / "made").touch()
    return bench


def begin(bench: Bench, run: Path) -> tuple[Path, Session]:
    """A copy of the bench at its first checkpoint: its config, and an open session."""
    run = run.resolve()
    shutil.rmtree(run / "run", ignore_errors=True)
    run.mkdir(parents=True, exist_ok=True)
    bench.copy(run / "run")
    first = run / f"run/checkpoint-{FIRST}"
    values = yaml.safe_load(bench.config.read_text()) | {
        "output_dir": str(run / "run"),
        "resume_from_checkpoint": str(first),
    }
    config = run / "config.yaml"
    config.write_text(yaml.safe_dump(values))
    launch = Launch(resume_from=str(first), resume_step=FIRST)
    session = Run(run / "run").open_session(launch)
    (session.path / "process-cli.json").unlink()  # no command line lives
    return config, session


def attach() -> None:
    """In the child that trains: let strace watch this process from now on."""
    if BEGUN not in os.environ:
        trace()
        return

    def wait() -> None:  # what Axolotl prints before the plugin lives is not ours to protect
        while not Path(os.environ[BEGUN]).exists():
            time.sleep(0.01)
        trace()

    threading.Thread(target=wait, daemon=True).start()


def trace() -> None:
    """Start strace on this process, and wait until it watches."""
    arguments = json.loads(os.environ[ATTACH])
    tracer = subprocess.Popen(["strace", "-f", "-qq", *arguments, "-p", str(os.getpid())])
    ctypes.CDLL(None).prctl(PR_SET_PTRACER, tracer.pid)
    while "TracerPid:\t0" in Path("/proc/self/status").read_text():
        assert tracer.poll() is None, "strace may not trace"
        time.sleep(0.01)


Target = tuple[str, Path | int, str, bool]
"""Row of the table, the file (or which call of all), the calls, whether it may end a training."""


def targets(bench: Bench, run: Path, session: Session) -> Iterator[Target]:
    """Each file that a training writes."""
    saved = run / f"checkpoint-{2 * SAVE_STEPS}"
    straight = bench.folder / f"run/checkpoint-{2 * SAVE_STEPS}"
    yield "the folder of a save", saved, "mkdir", True
    for file in sorted(straight.iterdir()):
        if file.name == store.SEAL:
            continue  # see `one_by_one`: it is written under a random name
        if file.suffix == ".safetensors" or file.name == "optimizer.pt":
            yield "files of a save, opened", saved / file.name, "open", True
        yield "files of a save, written", saved / file.name, "write", True
        yield "files of a save, forced to disk", saved / file.name, "fsync", True
    yield "the folder of a save, forced to disk", saved, "fsync", True
    yield "the record of begun saves", Run(run).saves_file, "open", True
    yield "the record of begun saves", Run(run).saves_file, "fsync", True
    yield "the numbers", session.metrics_file, "open", False
    yield "the numbers", session.metrics_file, "write", False
    for number in range(1, 9):  # of status, index, seal, adapter and verdict
        yield "one rename", number, "rename", True
    yield "the end", session.end_file, "link", False
    yield "the log", run.parent / "config.log", "write", False


def number_of_targets(bench: Bench) -> int:
    run = bench.folder / "none"
    return len(list(targets(bench, run, Session(run))))


def trainings(folder: Path) -> list[Try]:
    """Every training of this module, one after the other."""
    with Forge(environment()) as forge:
        bench = make(folder / "bench-injected", forge)
        place = folder / "injected"
        found = [training(bench, forge, n, place) for n in range(number_of_targets(bench))]
        if os.geteuid() == 0:
            found += [full_disk(bench, forge, part, place / "small") for part in PARTS]
            if not disks.missing("btrfs"):
                found += [over_quota(bench, forge, part, place / "quota") for part in PARTS]
        return found


def training(bench: Bench, forge: Forge, number: int, folder: Path) -> Try:
    """A training in which every call on one file fails."""
    folder = folder.resolve()
    config, session = begin(bench, folder)
    run = folder / "run"
    what, where, call, may_end = list(targets(bench, run, session))[number]
    error = ERRORS[number % len(ERRORS)]
    inject = f"inject={CALLS[call]}:error={error}"
    if isinstance(where, int):
        arguments, named = ["-e", f"{inject}:when={where}"], f"number {where}"
    else:
        arguments, named = ["-e", inject, "-P", str(where)], where.name
    arguments += ["-o", str(folder / "trace")]
    env = {"LEVIATHAN_SESSION": str(session.path), ATTACH: json.dumps(arguments)}
    if what == "the log":
        env[BEGUN] = str(session.begin_file)
    done = forge.train(config, patch=f"{__file__}:{attach.__name__}", **env)
    hit = "(INJECTED)" in (folder / "trace").read_text(errors="replace")
    found = outcome(bench, done, session, may_end=may_end)
    if not hit:
        found = Try(**(vars(found) | {"problem": "the call never came"}))
    if found.survived and done.code:
        found = Try(**(vars(found) | {"problem": resume(bench, forge, folder)}))
    fault = f"real training, {call} fails: {what}"
    return Try(**(vars(found) | {"fault": fault, "seed": f"{named} {error}"}))


def full_disk(bench: Bench, forge: Forge, part: float, folder: Path) -> Try:
    """A training whose disk has room for a part of its next save alone."""
    with small_disk(bench, folder / "small") as disk:
        config, session = begin(bench, disk)
        ballast = leave_room(bench, part, disk)
        done = forge.train(config, LEVIATHAN_SESSION=str(session.path))
        found = outcome(bench, done, session, may_end=True)
        ballast.unlink()
        if found.survived and done.code:
            found = Try(**(vars(found) | {"problem": resume(bench, forge, disk)}))
    return Try(**(vars(found) | {"fault": "real training, full disk", "seed": f"{part:.2f}"}))


def over_quota(bench: Bench, forge: Forge, part: float, folder: Path) -> Try:
    """A training whose run has a quota with room for a part of its next save alone."""
    with quota(folder, int((1 + part) * _size_of_a_save(bench)) + ROOM) as limited:
        config, session = begin(bench, limited)
        done = forge.train(config, LEVIATHAN_SESSION=str(session.path))
        found = outcome(bench, done, session, may_end=True)
        lift_quota(limited)
        if found.survived and done.code:
            found = Try(**(vars(found) | {"problem": resume(bench, forge, limited)}))
    return Try(**(vars(found) | {"fault": "real training, over quota", "seed": f"{part:.2f}"}))


def small_disk(bench: Bench, path: Path) -> AbstractContextManager[Path]:
    """A file system in memory with room for some checkpoints of the bench."""
    return tmpfs(path, 12 * _size_of_a_save(bench))


def leave_room(bench: Bench, part: float, disk: Path) -> Path:
    """Leave room for a part of a save alone; the file that takes the rest."""
    ballast = disk / "ballast"
    free = shutil.disk_usage(disk).free
    ballast.write_bytes(bytes(int(free - part * _size_of_a_save(bench)) - 100_000))
    return ballast


def _size_of_a_save(bench: Bench) -> int:
    return sum(f.stat().st_size for f in (bench.folder / f"first/checkpoint-{FIRST}").iterdir())


def outcome(bench: Bench, done: Outcome, session: Session, *, may_end: bool) -> Try:
    """Judge a training that met a fault."""
    run = done.run
    intact = [item.step for item in store.scan(Run(run), store.Read.ALL) if item.intact]
    newest = max(intact, default=0)
    lost = max(0, last_logged(session.path) - newest)
    wrong = bench.wrong(run)
    problem = " ".join(wrong)
    if done.code == 0 and newest != LAST:
        problem = problem or f"ended well at step {newest}"
    elif done.code and not may_end:
        problem = problem or f"ended by what it need not save: {done.error}"
    elif lost > SAVE_STEPS or not intact:
        problem = problem or f"from {lost + newest} back to {newest}"
    return Try("", may_end, lost, 0, len(wrong), 0, problem)


def resume(bench: Bench, forge: Forge, folder: Path) -> str:
    """Train on from the newest intact checkpoint; what is not as it would have been."""
    run = Run(folder / "run")
    newest = store.latest(store.scan(run, store.Read.ALL))
    assert newest
    for item in store.scan(run, store.Read.ALL):
        if not item.intact:
            shutil.rmtree(item.path)
    config = folder / "config.yaml"
    values = yaml.safe_load(config.read_text()) | {"resume_from_checkpoint": str(newest.path)}
    config.write_text(yaml.safe_dump(values))
    done = forge.train(config)
    if done.code:
        return f"the resume from {newest.name} failed: {done.error}"
    return " ".join(bench.wrong(run.path))
