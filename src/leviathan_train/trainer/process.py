"""The trainer's process as a part of a session: its records, its listener, its end."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import torch

from leviathan_train.config.redact import redact
from leviathan_train.errors import LeviathanError
from leviathan_train.run.folder import Run
from leviathan_train.run.records import Cause, End, Ending, Launch, Phase, Status
from leviathan_train.run.session import Session
from leviathan_train.system import processes
from leviathan_train.system.files import is_out_of_space, write_json
from leviathan_train.trainer import cause, trackers, upstream
from leviathan_train.trainer.beats import Beats
from leviathan_train.trainer.lead import Deadline
from leviathan_train.trainer.listener import Listener, join
from leviathan_train.trainer.output import Output, forgive_full_disks
from leviathan_train.trainer.ranks import broadcast_name, is_local_main, machines, world

_NO_ROOM = 1 << 20
"""Bytes that a disk which is not to blame for an error still has."""


class TrainerProcess:
    """This process's part in a session.

    Args:
        cfg: the config, raw or validated.
    """

    def __init__(self, cfg: Any) -> None:
        self.rank, self.world_size = world()
        self._named = {key: cfg.get(key) for key in ("datasets", "base_model")}
        self.shown = Path(str(cfg["output_dir"]))
        """The run's folder as the config writes it."""
        self.run = Run(self.shown.absolute())
        self.session = self._session(cfg)
        join(self.session, self.rank)
        launch = self.session.launch
        if self.rank == 0:
            resumed = bool(cfg.get("resume_from_checkpoint")) and not launch.branched
            os.environ.update(trackers.environment(self.run, cfg, resumed=resumed))
        forgive_full_disks()
        self.output = Output(self.session, self.rank, has_screen=launch.cli)
        self.listener = Listener(
            self.session,
            self.rank,
            Status(str(self.shown), Phase.STARTING, os.getpid(), processes.hostname()),
            Deadline(launch.until, launch.until_monotonic),
            self.leave_early,
            beats=Beats(self.session, *machines(), beats=is_local_main()),
        )
        self.listener.start()
        self.listener.write_status(force=True)
        self._hook = sys.excepthook
        sys.excepthook = self._crashed

    def _session(self, cfg: Any) -> Session:
        if named := os.environ.get(processes.SESSION_ENV):
            return Session(Path(named))
        if self.rank == 0:
            launch = Launch(
                config=str(cfg.get("axolotl_config_path") or ""),
                resume_from=str(cfg.get("resume_from_checkpoint") or "") or None,
                cwd=os.getcwd(),
            )
            session = self.run.open_session(launch, role="rank0")
            os.environ[processes.SESSION_ENV] = str(session.path)
        named = os.environ.get(processes.SESSION_ENV)
        if self.world_size > 1:
            named = broadcast_name(named)
        if not named:
            raise LeviathanError("Rank 0 opened no session for this rank.")
        return Session(Path(named))

    def phase(self, phase: Phase) -> None:
        """Tell what the trainer is doing now."""
        self.listener.tell(phase=phase)
        self.listener.write_status(force=True)

    def say(self, line: str) -> None:
        """Tell the user a line: in the log, and on the screen that follows it."""
        self.output.say(line)

    def keep_config(self, record: logging.LogRecord) -> bool:
        """Keep Axolotl's dump of the config out of the log, where people grep for values."""
        if (dump := upstream.config_of_log_record(record.msg)) is not None and record.args:
            file = self.session.path / "config.json"
            dump = upstream.config_of_log_record(record.getMessage()) or dump
            if self.rank == 0:
                with contextlib.suppress(OSError, ValueError):
                    write_json(file, redact(json.loads(dump)))
            record.msg, record.args = f"config: in {file}", ()
        return True

    def close_session(self, kind: Ending, checkpoint: str | None, why: str, cause: Cause) -> None:
        """Record how the session ended; the first record stands, a full disk is no fault."""
        step = self.listener.last_step
        with contextlib.suppress(OSError):
            self.session.close(End(kind, step, checkpoint, why, time.time(), cause))

    def leave_early(self, end: End) -> NoReturn:
        """End before the first step, from any thread: there is nothing to save."""
        self.say("Stopped before the first step: there was nothing to save.")
        with contextlib.suppress(OSError):
            self.session.close(end)
        processes.kill(processes.descendants(os.getpid()))
        sys.stdout.flush()
        os._exit(0)

    def _crashed(
        self, kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        why = cause.told(error, self.listener.status.phase, self._named)
        checkpoint = self.listener.last_checkpoint
        self.close_session(Ending.CRASHED, checkpoint, why, cause_of(error, self))
        self._hook(kind, error, trace)


def cause_of(error: BaseException, process: TrainerProcess) -> Cause:
    """What an exception that ends the training is a sign of."""
    if isinstance(error, upstream.UpstreamError):
        return Cause.UPSTREAM
    if isinstance(error, torch.OutOfMemoryError):
        return Cause.GPU_MEMORY
    if type(error).__name__ == "ValidationError" and process.listener.last_step is None:
        return Cause.CONFIG  # pydantic's; Axolotl raises it before a model is loaded
    return Cause.DISK if is_out_of_space(error, process.run.path, _NO_ROOM) else Cause.FAULT


def leave_process(status: int = 0) -> NoReturn:
    """End this process after its exit handlers, without tearing torch down for seconds.

    A tracker that cannot reach its server may not hold the GPU for longer than a minute.
    """
    limit = threading.Timer(60.0, os._exit, (status,))
    limit.daemon = True
    limit.start()
    upstream.run_exit_handlers()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
