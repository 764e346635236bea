"""A run: one `output_dir`, every path in it, and the opening of its sessions.

The command line and the trainer meet only here, through files in the run's folder:

    <run>/.leviathan/lock                        held while a session is being opened
    <run>/.leviathan/saves                       one line for each save begun under the plugin
    <run>/.leviathan/verified/                   what was already verified, one file a checkpoint
    <run>/.leviathan/mirror/                     of the process that copies checkpoints elsewhere
    <run>/.leviathan/sessions/<id>/launch.json   who started it, with what
    <run>/.leviathan/sessions/<id>/begin.json    where training began
    <run>/.leviathan/sessions/<id>/status.json   the trainer, at most once a second
    <run>/.leviathan/sessions/<id>/requests/     what was asked of it
    <run>/.leviathan/sessions/<id>/metrics.jsonl every logged number
    <run>/.leviathan/sessions/<id>/screen        the lines meant for the screen
    <run>/.leviathan/sessions/<id>/seam.json     the verdict on the resume
    <run>/.leviathan/sessions/<id>/end.json      how it ended
    <run>/.leviathan/sessions/<id>/beat-<n>      sign of life of machine n, where several train
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path

from leviathan_train.errors import Busy, LeviathanError
from leviathan_train.run import index, liveness, records
from leviathan_train.run.records import PROTOCOL, Cause, Launch, MirrorState, RequestKind
from leviathan_train.run.session import Session
from leviathan_train.system import processes
from leviathan_train.system.files import read_bytes, write_json
from leviathan_train.system.locks import locked
from leviathan_train.system.processes import Process
from leviathan_train.system.slurm import SlurmJob
from leviathan_train.system.units import clock

TRAINING_ROOT = Path("work/training")

_SESSION = re.compile(r"([0-9]{8}_[0-9]{6})(?:_([0-9]{1,9}))?")


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
    def sessions_folder(self) -> Path:
        return self.records / "sessions"

    @property
    def saves_file(self) -> Path:
        return self.records / "saves"

    @property
    def verified(self) -> Path:
        return self.records / "verified"

    @property
    def mirror_folder(self) -> Path:
        return self.records / "mirror"

    @property
    def mirror_file(self) -> Path:
        """What the process that copies checkpoints elsewhere tells."""
        return self.mirror_folder / "state.json"

    @property
    def mirror(self) -> MirrorState | None:
        """What that process last told; None if there never was one."""
        return records.read(MirrorState, self.mirror_file)

    def checkpoint(self, step: int) -> Path:
        return self.path / f"checkpoint-{step}"

    def saves(self) -> set[str]:
        """Names of the checkpoints whose save was begun under the plugin."""
        try:
            return set(read_bytes(self.saves_file).decode(errors="replace").split())
        except (FileNotFoundError, NotADirectoryError):
            return set()

    def begin_save(self, name: str) -> None:
        """Record, durably, that a save of checkpoint `name` begins."""
        if name in self.saves():
            return
        self.records.mkdir(parents=True, exist_ok=True)
        with self.saves_file.open("a") as stream:
            # The line break first: a full disk may have cut off what was to be written before.
            stream.write(f"\n{name}\n" if stream.tell() else f"{name}\n")
            stream.flush()
            os.fsync(stream.fileno())

    def sessions(self) -> list[Session]:
        """All sessions, oldest first."""
        folder = self.sessions_folder
        try:
            with os.scandir(folder) as entries:
                names = [entry.name for entry in entries if entry.is_dir()]
        except OSError:
            return []
        return [Session(folder / name) for name in sorted(names, key=_order)]

    def session(self) -> Session | None:
        """The newest session."""
        sessions = self.sessions()
        return sessions[-1] if sessions else None

    def live_session(self) -> Session | None:
        """The session that is going on now."""
        session = self.session()
        return session if session and liveness.alive(session) else None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for the moment of opening a session; the kernel frees it at death."""
        with locked(self.records / "lock"):
            yield

    def open_session(self, launch: Launch, role: str = "cli") -> Session:
        """Begin a session of this process.

        What dead sessions of the run left behind, processes included, is ended first.

        Args:
            launch: the record of the start; id, time and host are filled in here.
            role: this process's part in the session.

        Raises:
            LeviathanError: another session is going on.
        """
        with self.locked():
            if other := self.live_session():
                raise busy(self, other)
            kill_orphans(self)
            self._take_over()
            job = SlurmJob.of()
            started = datetime.now()
            session = self._new_session(started.strftime("%Y%m%d_%H%M%S"))
            session.add_process(Process.of(), role)
            record = replace(
                launch,
                id=session.id,
                started=started.timestamp(),
                host=processes.hostname(),
                slurm_job=job.id if job else "",
                slurm_restarts=job.restarts if job else 0,
                protocol=PROTOCOL,
            )
            write_json(session.launch_file, asdict(record), durable=True)
        index.remember(self.path, launch.config, launch.cwd)
        return session

    def _take_over(self) -> None:
        """Have a trainer that an earlier start of this Slurm job left on another host killed.

        Slurm may have lost that host without its having died: should the trainer ever reach
        the run's folder again, it finds the request and ends.
        """
        other = self.session()
        if other and other.end is None and not other.is_here() and liveness.of_earlier_start(other):
            with contextlib.suppress(OSError):
                other.ask(RequestKind.KILL, "the next start of its Slurm job", cause=Cause.SIGNAL)

    def _new_session(self, base: str) -> Session:
        first, newest = 1, self.session()
        if newest and (last := _order(newest.id))[0] >= base:
            # The clock was set back, or this is the same second: the newest must be the last.
            base, first = last[0], last[1] + 1
        numbers = range(first, first + 1000)
        for name in (base if number == 1 else f"{base}_{number}" for number in numbers):
            session = Session((self.sessions_folder / name).resolve())
            with contextlib.suppress(FileExistsError):
                session.path.mkdir(parents=True)
                return session
        raise LeviathanError(f"{self.sessions_folder} holds too many sessions named {base}.")

    def last_used(self) -> float:
        """When the run was last worked on, in seconds since the epoch."""
        latest = 0.0
        for path in (self.path, self.sessions_folder, self.path / "trainer_state.json"):
            with contextlib.suppress(OSError):
                latest = max(latest, path.stat().st_mtime)
        return latest


def _order(name: str) -> tuple[str, int, str]:
    """What sessions are sorted by: their time, and the number that makes it unique."""
    match = _SESSION.fullmatch(name)
    return (match[1], int(match[2] or 1), name) if match else ("", 0, name)


def kill_orphans(run: Run, spare: Session | None = None) -> None:
    """Kill the processes that dead sessions of the run left behind, on this host.

    All but those of `spare`, a session that lives.

    A data worker may outlive a trainer that was killed; an orphaned trainer would write into
    the run beside the next one.
    """
    folder, spared = run.sessions_folder.resolve(), spare.path if spare else None
    processes.kill_all(lambda: processes.below_sessions(folder, spared))


def busy(run: Run, session: Session) -> Busy:
    """The refusal to touch a run that is training."""
    from leviathan_train.run.lookup import in_command  # which knows this module

    name = in_command(run)
    named = session.processes()
    process = next((named[role] for role in ("rank0", "launcher", "cli") if role in named), None)
    who = f"process {process.pid} on {process.host}" if process else f"a process on {session.host}"
    return Busy(
        f"{run.name} is already training: {who}, since {clock(session.launch.started)}.",
        f"See it with:  leviathan status {name}    Stop it with:  leviathan pause {name}",
    )
