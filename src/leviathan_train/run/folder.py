"""A run: one `output_dir`, every path in it, and the records of its sessions.

The command line and the trainer meet only here, through files in the run's folder:

    <run>/.leviathan/lock                     held while a session is being opened
    <run>/.leviathan/saves                    one line for each save begun under the plugin
    <run>/.leviathan/verified/                what was already verified, one file a checkpoint
    <run>/.leviathan/sessions/<id>/launch.json   who started it, with what
    <run>/.leviathan/sessions/<id>/status.json   the trainer, at most once a second
    <run>/.leviathan/sessions/<id>/request.json  what was asked of it
    <run>/.leviathan/sessions/<id>/end.json      how it ended
    <run>/.leviathan/sessions/<id>/screen        the lines meant for the screen
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from leviathan_train.config import load as configs
from leviathan_train.errors import LeviathanError, UsageError
from leviathan_train.system import processes
from leviathan_train.system.files import read_json, write_json
from leviathan_train.system.locks import locked
from leviathan_train.system.processes import Process

TRAINING_ROOT = Path("work/training")
TERM_GRACE = 60.0
"""Seconds that a SIGTERM leaves for the step and the save."""
PAUSE_GRACE = 300.0
"""The same for Ctrl+C and `leviathan pause`."""
HEARTBEAT_LOST = 120.0
"""Seconds without a sign of life after which a session on another host counts as dead."""

Phase = Literal["waiting", "starting", "data", "model", "training", "evaluating", "saving", "final"]
Ending = Literal["finished", "paused", "stopped", "killed", "crashed"]


@dataclass(frozen=True)
class Status:
    """What the trainer last told of itself. Steps, seconds, and bytes."""

    run: str
    phase: Phase
    pid: int
    host: str
    step: int = 0
    max_steps: int = 0
    epoch: float | None = None
    loss: float | None = None
    eval_loss: float | None = None
    grad_norm: float | None = None
    learning_rate: float | None = None
    steps_per_second: float | None = None
    eta_seconds: float | None = None
    last_checkpoint: str | None = None
    last_checkpoint_at: float | None = None
    next_save_step: int | None = None
    next_save_at: float | None = None
    gpu_memory_bytes: int | None = None
    updated: float = 0.0

    @classmethod
    def from_json(cls, value: Any) -> Status | None:
        """The status a file holds, whatever version wrote it; None if it holds none."""
        known = {item.name for item in fields(cls)}
        try:
            return cls(**{key: item for key, item in value.items() if key in known})
        except (AttributeError, TypeError):
            return None


@dataclass(frozen=True)
class Request:
    """What somebody asks of the trainer.

    Attributes:
        kind: `pause` (save and end), `save` (save and go on) or `kill` (end at once).
        by: who asks, as shown to the user.
        at: seconds since the epoch.
        grace: seconds until a trainer that has not obeyed ends hard.
    """

    kind: Literal["pause", "save", "kill"]
    by: str
    at: float
    grace: float


@dataclass(frozen=True)
class End:
    """How a session ended.

    Attributes:
        kind: by itself (`finished`), saved on request (`paused`), on request before there
            was a step to save (`stopped`), ended hard (`killed`), or by a fault (`crashed`).
        step: the last step that is on disk, None if there is none.
        checkpoint: the checkpoint saved at the end.
        why: who asked, or what failed.
        at: seconds since the epoch.
    """

    kind: Ending
    step: int | None
    checkpoint: str | None
    why: str
    at: float


@dataclass(frozen=True)
class Session:
    """One life of the training process in a run."""

    path: Path

    @property
    def id(self) -> str:
        """Its start as `YYYYmmdd_HHMMSS`, made unique; sessions sort by it."""
        return self.path.name

    @property
    def launch_file(self) -> Path:
        return self.path / "launch.json"

    @property
    def status_file(self) -> Path:
        return self.path / "status.json"

    @property
    def request_file(self) -> Path:
        return self.path / "request.json"

    @property
    def end_file(self) -> Path:
        return self.path / "end.json"

    @property
    def screen_file(self) -> Path:
        return self.path / "screen"

    @property
    def log(self) -> Path:
        """The whole output of the training."""
        return self.path.parents[2] / "logs" / f"training_{self.id}.log"

    @property
    def launch(self) -> dict[str, Any]:
        """The record of the start; empty if it was lost."""
        return read_json(self.launch_file) or {}

    @property
    def status(self) -> Status | None:
        return Status.from_json(read_json(self.status_file))

    @property
    def end(self) -> End | None:
        value = read_json(self.end_file)
        try:
            return End(**value) if value else None
        except TypeError:
            return None

    @property
    def request(self) -> Request | None:
        value = read_json(self.request_file)
        try:
            return Request(**value) if value else None
        except TypeError:
            return None

    def ask(
        self,
        kind: Literal["pause", "save", "kill"],
        by: str,
        grace: float,
        *,
        now: float | None = None,
    ) -> Request:
        """Leave a request for the trainer; an earlier, sooner deadline stays in force."""
        request = Request(kind, by, time.time() if now is None else now, grace)
        earlier = self.request
        if earlier and earlier.kind == kind == "pause":
            deadline = min(earlier.at + earlier.grace, request.at + grace)
            request = Request(kind, earlier.by, request.at, max(0.0, deadline - request.at))
        write_json(self.request_file, asdict(request))
        return request

    def close(self, end: End) -> End:
        """Record how the session ended; the first record stays."""
        if known := self.end:
            return known
        write_json(self.end_file, asdict(end), durable=True)
        return end

    def add_process(self, process: Process, role: str) -> None:
        """Record a process that belongs to the session (`cli`, `launcher`, `rank0`, ...)."""
        write_json(self.path / f"process-{role}.json", asdict(process))

    def processes(self) -> dict[str, Process]:
        """The recorded processes by role."""
        found = {}
        for path in sorted(self.path.glob("process-*.json")):
            if process := Process.from_json(read_json(path)):
                found[path.stem.removeprefix("process-")] = process
        return found

    @property
    def host(self) -> str:
        """Where it runs or ran."""
        return str(self.launch.get("host", ""))

    def is_here(self) -> bool:
        """Whether it was started on this host."""
        return self.host in {"", processes.hostname()}

    def trainer_alive(self) -> bool:
        """Whether a process of the training itself lives; of another host, by heartbeat."""
        if not self.is_here():
            return self.end is None and self._heard_of()
        named = self.processes()
        named.pop("cli", None)
        return any(process.alive() for process in named.values())

    def alive(self) -> bool:
        """Whether the session still goes on: one of its processes lives."""
        if self.end is not None and not self.is_here():
            return False
        if self.trainer_alive():
            return True
        cli = self.processes().get("cli")
        return self.end is None and bool(cli and cli.alive())

    def _heard_of(self) -> bool:
        latest = 0.0
        for path in (self.status_file, self.launch_file):
            with contextlib.suppress(OSError):
                latest = max(latest, path.stat().st_mtime)
        return time.time() - latest < HEARTBEAT_LOST

    def stragglers(self) -> set[int]:
        """Pids of every live process of the training, orphans included, but the CLI's."""
        named = self.processes()
        cli = named.pop("cli", None)
        pids = set(processes.of_session(self.path))
        pids |= {process.pid for process in named.values() if process.alive()}
        for pid in list(pids):
            pids |= set(processes.descendants(pid))
        return pids - {os.getpid()} - ({cli.pid} if cli else set())

    def kill(self) -> None:
        """End every process of the training at once, and see them gone."""
        for _ in range(5):  # a process may fork between the look and the blow
            if not (pids := self.stragglers()):
                return
            processes.kill(pids)
            processes.wait_until(lambda: not self.stragglers(), 1.0, poll=0.02)


@dataclass(frozen=True)
class Run:
    """One `output_dir` and every path in it."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def superseded(self) -> Path:
        """Where checkpoints of a branch that was left are set aside."""
        return self.path / "superseded"

    @property
    def final(self) -> Path:
        """The adapter of a training that ended by itself."""
        return self.path / "checkpoint-final"

    @property
    def records(self) -> Path:
        return self.path / ".leviathan"

    @property
    def saves_file(self) -> Path:
        return self.records / "saves"

    @property
    def verified(self) -> Path:
        return self.records / "verified"

    def checkpoint(self, step: int) -> Path:
        return self.path / f"checkpoint-{step}"

    def saves(self) -> set[str]:
        """Names of the checkpoints whose save was begun under the plugin."""
        try:
            return set(self.saves_file.read_text().split())
        except (FileNotFoundError, NotADirectoryError):
            return set()

    def begin_save(self, name: str) -> None:
        """Record, durably, that a save of checkpoint `name` begins."""
        if name in self.saves():
            return
        self.records.mkdir(parents=True, exist_ok=True)
        with self.saves_file.open("a") as stream:
            stream.write(f"{name}\n")
            stream.flush()
            os.fsync(stream.fileno())

    def sessions(self) -> list[Session]:
        """All sessions, oldest first."""
        folder = self.records / "sessions"
        try:
            names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
        except OSError:
            return []
        return [Session(folder / name) for name in names]

    def session(self) -> Session | None:
        """The newest session."""
        sessions = self.sessions()
        return sessions[-1] if sessions else None

    def live_session(self) -> Session | None:
        """The session that is going on now."""
        session = self.session()
        return session if session and session.alive() else None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for the moment of opening a session; the kernel frees it at death."""
        with locked(self.records / "lock"):
            yield

    def open_session(self, launch: dict[str, Any], role: str = "cli") -> Session:
        """Begin a session of this process.

        Args:
            launch: what the start's record shall hold (config, arguments, checkpoint).
            role: this process's part in it.

        Raises:
            LeviathanError: another session is going on.
        """
        with self.locked():
            if other := self.session():
                if other.alive():
                    raise busy(self, other)
                if other.is_here():
                    other.kill()  # orphans of a dead trainer would write into the same run
            started = datetime.now()
            base = started.strftime("%Y%m%d_%H%M%S")
            taken = {session.id for session in self.sessions()}
            name = next(
                n for n in [base, *(f"{base}_{i}" for i in range(2, 1000))] if n not in taken
            )
            session = Session((self.records / "sessions" / name).resolve())
            session.path.mkdir(parents=True)
            session.add_process(Process.of(), role)
            record = {"id": name, "started": started.timestamp(), "host": processes.hostname()}
            write_json(session.launch_file, record | launch, durable=True)
        return session

    def last_used(self) -> float:
        """When the run was last worked on, in seconds since the epoch."""
        latest = 0.0
        for path in (self.path, self.records / "sessions", self.path / "trainer_state.json"):
            with contextlib.suppress(OSError):
                latest = max(latest, path.stat().st_mtime)
        return latest


def busy(run: Run, session: Session) -> LeviathanError:
    """The refusal to touch a run that is training."""
    named = session.processes()
    process = next((named[role] for role in ("rank0", "launcher", "cli") if role in named), None)
    who = f"process {process.pid} on {process.host}" if process else f"a process on {session.host}"
    return LeviathanError(
        f"{run.name} is already training: {who}, since {session.id}.",
        f"See it with:  leviathan status {run.name}    End it with:  leviathan pause {run.name}",
    )


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
        UsageError: there is no such run.
    """
    if target is None:
        runs = all_runs(root)
        if not runs:
            raise UsageError(
                f"No run below {root} in {Path.cwd()}.",
                "Start one with:  leviathan train CONFIG    or name one:  RUN is a folder,"
                " a name or a config",
            )
        return runs[0]
    path = Path(target)
    if len(target) > 4096 or "\0" in target or any(len(part) > 255 for part in path.parts):
        raise UsageError("No run has so long or so odd a name.", "See them with:  leviathan runs")
    if "/" not in target and target not in {"", ".", ".."} and is_run(root / target):
        return Run(root / target)
    if path.is_file() and path.suffix in {".yml", ".yaml"}:
        return Run(configs.load(path).output_dir)
    if path.is_dir():
        return Run(path)
    if (root / target).is_dir() and target not in {"", ".", ".."}:
        return Run(root / target)
    names = [run.name for run in all_runs(root)]
    close = configs.nearest(target, names)
    hint = f"Did you mean {close}?" if close else "See them with:  leviathan runs"
    raise UsageError(f"No run {target!r}: no such folder, config, or name below {root}.", hint)
