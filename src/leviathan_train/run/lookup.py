"""Which run a user means: by name, folder, config, or the one used last."""

from __future__ import annotations

import os
from pathlib import Path

from leviathan_train.config.load import load_config, nearest
from leviathan_train.errors import UsageError
from leviathan_train.run.folder import TRAINING_ROOT, Run


def all_runs(root: Path = TRAINING_ROOT) -> list[Run]:
    """Every run below `root`, the one used last first."""
    try:
        folders = [Path(entry.path) for entry in os.scandir(root) if entry.is_dir()]
    except OSError:
        return []
    runs = [Run(folder) for folder in folders if is_run(folder)]
    return sorted(runs, key=lambda run: run.last_used(), reverse=True)


def is_run(folder: Path) -> bool:
    """Whether `folder` holds a training's output."""
    if (folder / ".leviathan").is_dir() or (folder / "adapter_config.json").is_file():
        return True
    return any(folder.glob("checkpoint-*"))


def find(target: str | None, root: Path = TRAINING_ROOT) -> Run:
    """The run meant by a name, a folder, a config, or, with None, the one used last.

    Raises:
        UsageError: there is no such run, or the name means two things.
    """
    if target is None:
        return _last_used(root)
    path = Path(target)
    if len(target) > 4096 or "\0" in target or any(len(part) > 255 for part in path.parts):
        raise UsageError(
            "That is not the name of a run: it is too long, or holds a NUL character.",
            "See them with:  leviathan runs",
        )
    named = _named(target, root)
    if path.is_file() and path.suffix in {".yml", ".yaml"}:
        return Run(load_config(path).output_dir)
    if path.is_dir():
        return _folder(path, named)
    if named:
        return named
    names = [run.name for run in all_runs(root)]
    close = nearest(target, names)
    hint = f"Did you mean {close}?" if close else "See them with:  leviathan runs"
    raise UsageError(f"No run {target!r}: no such folder, config, or name below {root}.", hint)


def _last_used(root: Path) -> Run:
    runs = all_runs(root)
    if not runs:
        raise UsageError(
            f"No run below {root} in {Path.cwd()}.",
            "Start one with:  leviathan train CONFIG    or name one:  RUN is a folder, a name or a"
            " config",
        )
    return runs[0]


def _named(target: str, root: Path) -> Run | None:
    """The run of this name below `root`."""
    is_name = "/" not in target and target not in {"", ".", ".."}
    return Run(root / target) if is_name and (root / target).is_dir() else None


def _folder(path: Path, named: Run | None) -> Run:
    """The run in a folder; `named` is another run of the same name.

    Raises:
        UsageError: the folder is no run, or both are.
    """
    here = is_run(path)
    if named and path.resolve() != named.path.resolve():
        if here:
            raise UsageError(
                f"{path} means two runs: ./{path} and {named.path}.", "Name one by its path."
            )
        return named
    if not here and not named and any(path.iterdir()):
        raise UsageError(
            f"{path} is not a run: it holds no checkpoint and no record of a training.",
            "See the runs with:  leviathan runs",
        )
    return Run(path)


def shortest_name(run: Run, root: Path = TRAINING_ROOT) -> str:
    """The shortest text that `find` takes for this run, from the working directory."""
    named = root / run.name
    try:
        if os.path.samefile(named, run.path) and not Path(run.name).exists():
            return run.name
    except OSError:
        pass
    return str(run.path)
