"""A real `leviathan merge` whose system calls fail one by one, or whose disk becomes full.

It must end with a line or two, leave what bore the model's name before and nothing else, and the
next merge must write what an undisturbed one writes.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from faults.bench import Bench, environment
from faults.disks import tmpfs
from faults.injected import CALLS, ERRORS
from faults.places import Answer, problem_of
from faults.results import Try
from leviathan_train.checkpoints.seal import digest
from leviathan_train.merge.output import RESERVE, workplace
from leviathan_train.merge.publish import RECORD
from support.driver import LEVIATHAN

WRITE = f"{CALLS['write']},sendfile,copy_file_range"
NUMBERED = {"mkdir": 9, "rename": 5, "fsync": 12, "write": 6}
"""Calls of a kind that fail, by their number in a process, at most: files with random names.

The seventh write or so of the command line is the report of its error, which nothing can replace.
"""
PARTS = (0.0, 0.02, 0.3, 0.7, 0.95, 1.0, 1.003, 1.01, 1.03)
"""Of the model, what the disk has room for."""
PATIENCE = 300.0
OLD = "an_earlier_model"
"""A file that tells the model that is replaced from the one that replaces it."""


@dataclass(frozen=True)
class Merging:
    """A finished run to merge, and what its model is when nothing goes wrong.

    Attributes:
        files: the hash of each file.
        size: of the model, in bytes.
    """

    run: Path
    folder: Path
    files: dict[str, str]
    size: int

    def merge(
        self,
        place: Path,
        *,
        before: Sequence[str] = (),
        meanwhile: Callable[[], None] | None = None,
    ) -> Answer:
        """Merge into a folder in `place`; exit status, stdout and stderr.

        Args:
            before: what the command is started by.
            meanwhile: called once the merge has begun.
        """
        (place / "tmp").mkdir(parents=True, exist_ok=True)
        words = ("merge", str(self.run), "--output", str(goal(place)), "--yes")
        process = subprocess.Popen(
            [*before, LEVIATHAN, *words],
            cwd=self.folder,
            env=environment() | {"TMPDIR": str(place / "tmp")},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if meanwhile:
            meanwhile()
        out, err = process.communicate(timeout=PATIENCE)
        return process.returncode, out, err

    def put_old(self, place: Path) -> None:
        """A model of an earlier merge, which is to be replaced."""
        shutil.copytree(goal(self.folder / "undisturbed"), goal(place))
        (goal(place) / OLD).touch()


def goal(place: Path) -> Path:
    return place / "models/merged"


def make(bench: Bench, folder: Path) -> Merging:
    """A finished run that is merged in `folder`, and its model."""
    folder = folder.resolve()
    merging = Merging(bench.folder / "run", folder, {}, 0)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    status, _, err = merging.merge(folder / "undisturbed")
    assert status == 0, err
    model = goal(folder / "undisturbed")
    size = sum(file.stat().st_size for file in model.iterdir())
    return Merging(merging.run, folder, files_of(model), size)


def files_of(model: Path) -> dict[str, str]:
    """Hashes by name of what two merges of one adapter have in common."""
    if not model.exists():
        return {}
    # Where and when it was merged.
    return {f.name: digest(f) for f in model.iterdir() if f.name not in {RECORD, "README.md"}}


Target = tuple[str, str, bool]
"""The call, the file or the number of the call, whether a model is replaced."""


def targets(merging: Merging) -> Iterator[Target]:
    """Each call, of each file of a model."""
    for name in sorted(merging.files):
        for call in ("open", "write"):
            yield call, name, False
    for call, most in NUMBERED.items():
        for number in range(1, most + 1):
            yield call, str(number), False
    for call in ("rename", "fsync"):
        for number in range(NUMBERED[call] // 2, NUMBERED[call] + 1):
            yield call, str(number), True


def failing(merging: Merging, call: str, which: str, replaces: bool) -> list[Try]:
    """A merge in which a call fails; none if it has not so many of this kind."""
    place = merging.folder / f"{call}-{which}{'-replaces' * replaces}"
    if replaces:
        merging.put_old(place)
    error = ERRORS[sum(map(ord, call + which)) % len(ERRORS)]
    calls = WRITE if call == "write" else CALLS[call]
    inject = f"inject={calls}:error={error}"
    if which.isdigit():
        arguments = ["-e", f"{inject}:when={which}"]
    else:
        file = workplace(goal(place)) / "merged" / which
        arguments = ["-e", inject, "-P", str(file)]
    trace = merging.folder / f"{place.name}.trace"
    arguments += ["-e", f"trace={calls}", "--seccomp-bpf", "-qq", "-o", str(trace)]
    answer = merging.merge(place, before=["strace", "-f", *arguments])
    hit = "(INJECTED)" in trace.read_text(errors="replace")
    if not hit and which.isdigit():
        return []
    problem = judge(merging, place, answer, replaces=replaces)
    problem = problem or ("" if hit else "the call never came")
    what = ", a model replaced" if replaces else ""
    told = "" if not problem else f" ({answer[0]}: {answer[2]})"
    return [Try(f"merge, {call} fails{what}", problem=problem + told, seed=f"{which} {error}")]


def disks(merging: Merging) -> list[Try]:
    """Every merge on a disk that is too small, or becomes so."""
    found = [full_disk(merging, part) for part in PARTS]
    found += [full_disk(merging, part, replaces=True) for part in PARTS[::3]]
    return [small_disk(merging), *found]


def full_disk(merging: Merging, part: float, *, replaces: bool = False) -> Try:
    """A merge whose disk is filled while it loads, but for room for a part of the model."""
    name = f"full-{part}{'-replaces' * replaces}"
    with tmpfs(merging.folder / name, RESERVE + 4 * merging.size + (1 << 20)) as disk:
        if replaces:
            merging.put_old(disk)
        ballast = disk / "ballast"

        def fill() -> None:
            deadline = time.monotonic() + PATIENCE
            while not (workplace(goal(disk)) / "job.json").exists():
                assert time.monotonic() < deadline, "the merge never began"
                time.sleep(0.005)
            room = int(part * merging.size)
            with ballast.open("wb") as stream:
                os.posix_fallocate(stream.fileno(), 0, shutil.disk_usage(disk).free - room)

        answer = merging.merge(disk, meanwhile=fill)
        problem = judge(merging, disk, answer, replaces=replaces, again=ballast.unlink)
    what = ", a model replaced" if replaces else ""
    told = "" if not problem else f" ({answer[0]}: {answer[2]})"
    return Try(f"merge, disk becomes full{what}", problem=problem + told, seed=f"{part:.3f}")


def small_disk(merging: Merging) -> Try:
    """A merge whose disk is too small from the beginning: refused."""
    with tmpfs(merging.folder / "small", RESERVE // 2) as disk:
        answer = merging.merge(disk)
        problem = problem_of(["merge"], answer)
        if answer[0] != 1 or (disk / "models").exists() or "free" not in answer[2]:
            problem = problem or f"exit {answer[0]}: {answer[2]}"
    return Try("merge, disk is too small", problem=problem)


def judge(
    merging: Merging,
    place: Path,
    answer: Answer,
    *,
    replaces: bool,
    again: Callable[[], object] = lambda: None,
) -> str:
    """What is not as promised after a merge that met a fault; empty if all is.

    Args:
        again: called before the next merge.
    """
    status, _, err = answer
    problem = problem_of(["merge"], answer)
    if status not in {0, 1, 2}:
        problem = problem or f"exit {status}"
    there = files_of(goal(place))
    earlier = there.pop(OLD, None) is not None
    wanted = merging.files if replaces or status == 0 else {}
    if there != wanted or earlier != (replaces and status != 0):
        problem = problem or f"where the model was, or was none, there is now: {sorted(there)}"
    left = [path for path in (place / "models").rglob("*") if path.is_file()]
    logs = [path for path in (place / "tmp").rglob("*") if path.is_file()]
    named = re.sub(r"\s", "", err)  # a long path is folded
    left = [path for path in left if path.parent != goal(place)]
    left += [path for path in logs if str(path) not in named]
    if left:
        problem = problem or f"left over: {', '.join(map(str, left))}"
    again()
    status, _, err = merging.merge(place)
    if status or files_of(goal(place)) != merging.files:
        problem = problem or f"the next merge: exit {status}: {err}"
    if not problem:
        for path in place.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return problem
