"""Where runs lie: remembered in the user's state folder, since an `output_dir` may be anywhere.

One small file for each run, written when one of its sessions begins. It is a hint and no record:
the run's own folder says everything else, and what is no run any more is forgotten.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from leviathan_train.run import records
from leviathan_train.system import mounts, places, processes
from leviathan_train.system.files import write_json

SELFTEST = ".selftest"
"""The folder of trainings that only compare, beside the runs; they are not remembered."""
_FORGOTTEN_AFTER = 90 * 86400.0
"""Seconds since a run's last session began after which one that cannot be seen is forgotten."""


@dataclass(frozen=True)
class Remembered:
    """A run that trained once.

    Attributes:
        path: its folder, absolute.
        config: the config that started its newest session, absolute; empty if not known.
        cwd: the folder that session was started from.
        host: the machine it was started on.
    """

    path: str = ""
    config: str = ""
    cwd: str = ""
    host: str = ""

    @property
    def shown(self) -> Path:
        """The run's folder: below the working directory a relative path, else an absolute one."""
        with contextlib.suppress(ValueError):
            return Path(self.path).relative_to(Path.cwd())
        return Path(self.path)

    @property
    def is_of_here(self) -> bool:
        """Whether it lies below the working directory, or was started from it."""
        here = Path.cwd()
        return here in Path(self.path).parents or self.cwd == str(here)

    def is_of(self, config: Path) -> bool:
        """Whether its newest session was started with this config."""
        return bool(self.config) and self.config == os.path.realpath(config)


def remember(run: Path, config: str, cwd: str) -> None:
    """Note that a session of `run` begins; a state folder that cannot be written is no fault.

    Args:
        config: as it was typed in `cwd`; empty if it is not known.
    """
    path = run.resolve()
    if SELFTEST in path.parts:
        return
    known = os.path.realpath(os.path.join(cwd, config)) if config else ""
    found = Remembered(str(path), known, os.path.realpath(cwd or "."), processes.hostname())
    with contextlib.suppress(OSError):
        write_json(_file(path), asdict(found))


def remembered(is_run: Callable[[Path], bool]) -> list[Remembered]:
    """Every remembered run that is there; what has gone is forgotten.

    A run whose disk is not mounted or does not answer, that may not be read, or that lies on
    another host, is only left out.
    """
    found = []
    with contextlib.suppress(OSError):
        for file in sorted(_folder().glob("*.json")):
            entry = records.read(Remembered, file) or Remembered()
            path = Path(entry.path)
            if not mounts.answers(path):
                continue
            try:
                is_there = bool(entry.path) and is_run(path)
            except OSError:  # it may not be read, which says nothing of the others
                continue
            if is_there:
                found.append(entry)
            elif _has_gone(entry, file):
                file.unlink(missing_ok=True)
    return found


def _has_gone(entry: Remembered, file: Path) -> bool:
    here = entry.host == processes.hostname() and Path(entry.path).parent.is_dir()
    return here or time.time() - file.stat().st_mtime > _FORGOTTEN_AFTER


def _folder() -> Path:
    return places.state() / "runs"


def _file(path: Path) -> Path:
    name = hashlib.sha256(os.fsencode(path)).hexdigest()[:24]
    return _folder() / f"{name}.json"
