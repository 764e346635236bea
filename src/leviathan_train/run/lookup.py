"""Which run a user means: by name, folder, config, or the one used last."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
from collections.abc import Iterable
from pathlib import Path

from leviathan_train.config.load import check_answers, load_config, nearest
from leviathan_train.errors import LeviathanError, UsageError
from leviathan_train.run import index
from leviathan_train.run.folder import TRAINING_ROOT, Run
from leviathan_train.run.records import Launch
from leviathan_train.system import mounts

_CHECKPOINT = re.compile(r"checkpoint-([0-9]+|final)")


def all_runs() -> list[Run]:
    """Every run below `work/training`, and every one that is remembered.

    Those that train come first, otherwise the one used last.
    """
    runs = {run.path.resolve(): run for run in _here()}
    for entry in index.remembered(is_run):
        runs.setdefault(Path(entry.path), Run(entry.shown))
    return _sorted(runs.values(), live=True)


def is_run(folder: Path) -> bool:
    """Whether `folder` holds a training's output."""
    return (folder / "adapter_config.json").is_file() or _has_runs_files(folder)


def _has_runs_files(folder: Path) -> bool:
    """Whether `folder` holds what no checkpoint holds."""
    return (folder / ".leviathan").is_dir() or any(folder.glob("checkpoint-*"))


def find(target: str | None, *, live: bool = False) -> Run:
    """The run meant by a name, a folder, a config, or, with None, the one used last.

    Args:
        live: of several, the one that trains is meant, wherever it lies; otherwise only a run of
            the working directory is taken without being named: one below it, or started from it.

    Raises:
        UsageError: there is no such run, or the name means two things.
        LeviathanError: it lies on a mount that does not answer.
    """
    if target is None:
        return _last_used(live=live)
    path = Path(target)
    if _is_impossible(target):
        raise UsageError(
            "That is not the name of a run: it is too long, or holds a NUL character.",
            "See them with:  leviathan runs",
        )
    for place in (path, TRAINING_ROOT / path):
        check_answers(place)
    if path.is_file() and path.suffix in {".yml", ".yaml"}:
        return _of_config(path, live=live)
    if path.is_dir():
        return _folder(path, target, live=live)
    if named := _named(target, live=live):
        return named
    if path.suffix in {".yml", ".yaml"}:
        return _of_config(path, live=live)  # which says what is wrong with it
    names = [run.name for run in all_runs()]
    close = nearest(target, names)
    hint = f"Did you mean {close}?" if close else "See them with:  leviathan runs"
    raise UsageError(f"No run {target!r}: no such folder or config, and no run of this name.", hint)


def find_or_new(target: str | None) -> Run:
    """As `find`; what is a config or a plain name may mean a run that is not here yet.

    Raises:
        UsageError: it means two things, or cannot be the name of a run.
    """
    try:
        return find(target)
    except UsageError:
        if not target or _is_impossible(target) or Path(target).exists():
            raise
        return Run(Path(target) if "/" in target else TRAINING_ROOT / target)


def _is_impossible(name: str) -> bool:
    """Whether the file system refuses such a name."""
    return len(name) > 4096 or "\0" in name or any(len(part) > 255 for part in Path(name).parts)


def _here() -> list[Run]:
    """Every run below `work/training`."""
    try:
        if not mounts.answers(TRAINING_ROOT):
            return []
        with os.scandir(TRAINING_ROOT) as entries:
            near = [entry for entry in entries if mounts.answers(Path(entry.path))]
            folders = [Path(entry.path) for entry in near if entry.is_dir()]
    except OSError:
        return []
    return [Run(folder) for folder in folders if _is_seen(folder)]


def _is_seen(folder: Path) -> bool:
    """As `is_run`; what may not be read is passed over, so that it hides no other run."""
    try:
        return is_run(folder)
    except OSError:
        return False


def _sorted(runs: Iterable[Run], *, live: bool) -> list[Run]:
    """The one used last first; with `live`, those that train before all others."""
    return sorted(
        runs,
        key=lambda run: (live and run.live_session() is not None, run.last_used()),
        reverse=True,
    )


def _last_used(*, live: bool) -> Run:
    entries = index.remembered(is_run)
    here = {run.path.resolve(): run for run in _here()}
    for entry in entries:
        if entry.is_of_here:
            here.setdefault(Path(entry.path), Run(entry.shown))
    elsewhere = [Run(entry.shown) for entry in entries if Path(entry.path) not in here]
    near, far = _sorted(here.values(), live=live), _sorted(elsewhere, live=live)
    if live:
        if training := [run for run in (*near, *far) if run.live_session()]:
            return training[0]
        near = near or far
    if near:
        return near[0]
    others = f" ({len(far)} elsewhere)" if far else ""
    raise UsageError(
        f"No run of this folder, {Path.cwd()}{others}.",
        "Name one, by name, folder or config; see them with:  leviathan runs"
        if far
        else "Start one with:  leviathan train CONFIG    or name one:  RUN is a folder, a name or"
        " a config",
    )


def _of_config(path: Path, *, live: bool) -> Run:
    """The run of a config: what its `output_dir` means here, or where it was started from.

    Raises:
        UsageError: the config cannot be read, or its run was never begun, or was removed.
    """
    here = Run(load_config(path).output_dir)
    entries = [entry for entry in index.remembered(is_run) if entry.is_of(path)]
    known = [Run(entry.shown) for entry in entries if Path(entry.path) != here.path.resolve()]
    # Of several, one whose folder the config names, and not `--set output_dir`.
    known = sorted(_sorted(known, live=False), key=lambda run: run.name != here.name)
    for run in (here, *known):
        if live and run.live_session():
            return run
    if known and not is_run(here.path):
        return known[0]
    if not here.path.exists():
        raise UsageError(
            f"{path}: its run does not exist: there is no folder {here.path.absolute()}.",
            f"Start it with:  leviathan train {shlex.quote(str(path))}    or see the others:"
            "  leviathan runs",
        )
    return here


def _named(target: str, *, live: bool) -> Run | None:
    """The run of this name below `work/training`, else the remembered one.

    Raises:
        UsageError: several are remembered, none of them or more than one of the working directory.
    """
    if "/" in target or target in {"", ".", ".."}:
        return None
    if (TRAINING_ROOT / target).is_dir():
        return Run(TRAINING_ROOT / target)
    entries = [item for item in index.remembered(is_run) if Path(item.path).name == target]
    near = [Run(entry.shown) for entry in entries if entry.is_of_here]
    found = near or [Run(entry.shown) for entry in entries]
    if len(found) > 1 and live:
        found = [run for run in found if run.live_session()] or found
    if len(found) > 1:
        places = ", ".join(str(run.path) for run in _sorted(found, live=True))
        raise UsageError(f"{target} means {len(found)} runs: {places}.", "Name one by its path.")
    return found[0] if found else None


def _folder(path: Path, target: str, *, live: bool) -> Run:
    """The run in a folder, or the one of its name where it holds none.

    Raises:
        UsageError: the folder is no run, or both are.
    """
    if _CHECKPOINT.fullmatch(path.name) and not _has_runs_files(path):
        raise UsageError(
            f"{path} is a checkpoint, not a run.",
            f"Name its run: {path.parent}. To merge it:  leviathan merge --checkpoint"
            f" {shlex.quote(str(path))}",
        )
    if is_run(path):
        twin = TRAINING_ROOT / path
        if "/" not in target and is_run(twin) and path.resolve() != twin.resolve():
            raise UsageError(
                f"{path} means two runs: ./{path} and {twin}.", "Name one by its path."
            )
        return Run(path)
    if named := _named(target, live=live):
        return named
    if any(path.iterdir()):
        raise UsageError(
            f"{path} is not a run: it holds no checkpoint and no record of a training.",
            "See the runs with:  leviathan runs",
        )
    return Run(path)


def shortest_name(run: Run) -> str:
    """The shortest text that `find` takes for this run, from the working directory."""
    with contextlib.suppress(LeviathanError, OSError):
        named = run.name and not run.name.startswith("-")
        if named and os.path.samefile(find(run.name).path, run.path):
            return run.name
    path = str(run.path)
    return f"./{path}" if path.startswith("-") else path


def start_again(launch: Launch) -> str:
    """The command that starts or resumes a run as `launch` did, from the working directory."""
    words = launch.typed or ("leviathan", "train", launch.config or "CONFIG")
    command = shlex.join(words)
    if launch.config and launch.cwd and os.path.realpath(launch.cwd) != os.getcwd():
        return f"cd {shlex.quote(launch.cwd)} && {command}"
    return command


def command_of(target: str) -> str | None:
    """The command that resumes the run of this name or folder; None where there is none such."""
    with contextlib.suppress(LeviathanError, OSError):
        if (session := find(target).session()) and session.launch.config:
            return start_again(session.launch)
    return None


def in_command(run: Run) -> str:
    """The run as it stands in a command that is shown: `shortest_name`, quoted for a shell."""
    return shlex.quote(shortest_name(run))
