"""The trainer's process as a part of a session: its records, its watch, its voice."""

from __future__ import annotations

import atexit
import io
import json
import logging
import os
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import torch.distributed as dist

from leviathan_train.config.redact import redact
from leviathan_train.errors import LeviathanError
from leviathan_train.run.folder import End, Phase, Run, Session, Status
from leviathan_train.system import processes
from leviathan_train.system.files import write_json
from leviathan_train.trainer import trackers
from leviathan_train.trainer.listener import Deadline, Watch, join


class Life:
    """This process's part in a session: its records, its watch, its voice.

    Args:
        cfg: the config, raw or validated.
    """

    def __init__(self, cfg: Any) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.world_size = int(os.environ.get("WORLD_SIZE", "1"))
        self.shown = Path(str(cfg["output_dir"]))
        self.run = Run(self.shown.absolute())
        self.session = self._session(cfg)
        join(self.session, self.rank)
        launch = self.session.launch
        if self.rank == 0:
            resumed = bool(cfg.get("resume_from_checkpoint")) and not launch.get("branched")
            os.environ.update(trackers.environment(self.run, cfg, resumed=resumed))
        self._has_screen = bool(launch.get("cli"))
        status = Status(str(self.shown), "starting", os.getpid(), processes.hostname())
        deadline = Deadline(at=launch.get("until"))
        self.watch = Watch(self.session, self.rank, status, deadline, self.leave_early)
        self.watch.start()
        self.watch.write_status(force=True)
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")
        self._hook = sys.excepthook
        sys.excepthook = self._crashed

    def _session(self, cfg: Any) -> Session:
        if named := os.environ.get(processes.SESSION_ENV):
            return Session(Path(named))
        if self.rank == 0:
            session = self.run.open_session(
                {
                    "config": str(cfg.get("axolotl_config_path") or ""),
                    "cli": False,
                    "resume_from": cfg.get("resume_from_checkpoint"),
                    "cwd": os.getcwd(),
                },
                role="rank0",
            )
            os.environ[processes.SESSION_ENV] = str(session.path)
        named_by_zero = [os.environ.get(processes.SESSION_ENV)]
        if self.world_size > 1 and dist.is_initialized():
            dist.broadcast_object_list(named_by_zero, src=0)
        if not named_by_zero[0]:
            raise LeviathanError("Rank 0 opened no session for this rank.")
        return Session(Path(named_by_zero[0]))

    def phase(self, phase: Phase) -> None:
        """Tell what the trainer is doing now."""
        self.watch.tell(phase=phase)
        self.watch.write_status(force=True)

    def say(self, line: str) -> None:
        """Tell the user a line: in the log, and on the screen that follows it."""
        if self.rank != 0:
            return
        print(line, flush=True)
        self._to_screen(line)

    def show(self, line: str) -> None:
        """Tell a line that quotes values on the screen only: people grep the log for them."""
        if not self._has_screen:
            self.say(line)
        elif self.rank == 0:
            self._to_screen(line)

    def _to_screen(self, line: str) -> None:
        with self.session.screen_file.open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")

    def keep_config(self, record: logging.LogRecord) -> bool:
        """Keep Axolotl's dump of the config out of the log, where people grep for values."""
        if isinstance(record.msg, str) and record.msg.startswith("config:") and record.args:
            file = self.session.path / "config.json"
            if self.rank == 0:
                write_json(file, redact(json.loads(record.getMessage().partition("\n")[2])))
            record.msg, record.args = f"config: in {file}", ()
        return True

    def leave_early(self, end: End) -> NoReturn:
        """End before the first step, from any thread: there is nothing to save."""
        self.say("Stopped before the first step: there was nothing to save.")
        self.session.close(end)
        processes.kill(processes.descendants(os.getpid()))
        sys.stdout.flush()
        os._exit(0)

    def _crashed(
        self, kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        why = " ".join(f"{kind.__name__}: {error}".split())
        if isinstance(error, LeviathanError):
            why = error.message
        watch = self.watch
        self.session.close(End("crashed", watch.last_step, watch.last_checkpoint, why, time.time()))
        self._hook(kind, error, trace)


def leave_process() -> NoReturn:
    """End this process after its exit handlers, without tearing torch down for seconds.

    A tracker that cannot reach its server may not hold the GPU for longer than a minute.
    """
    limit = threading.Timer(60.0, os._exit, (0,))
    limit.daemon = True
    limit.start()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
