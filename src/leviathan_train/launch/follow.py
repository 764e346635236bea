"""Starting the trainer, following it, and saying how it ended.

The trainer writes to its log file and its records by itself, so that neither a dead
command line nor a closed terminal takes the training along.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from leviathan_train.config.load import Config, is_secret
from leviathan_train.errors import UsageError
from leviathan_train.launch.requests import close_as
from leviathan_train.launch.resume import Offer
from leviathan_train.run.folder import TERM_GRACE, End, Ending, Run, Session, Status
from leviathan_train.run.log import cause_in, tail
from leviathan_train.system import processes
from leviathan_train.system.files import write_json
from leviathan_train.system.processes import SESSION_ENV, Process
from leviathan_train.system.signals import NotedSignals

_POLL = 0.1
_MARGIN = 15.0
"""Seconds after the trainer's own deadline at which the command line ends it."""

_LINGER = 120.0
"""Seconds that a trainer which has recorded its end may take for its exit handlers."""


@dataclass(frozen=True)
class Plan:
    """Everything a start needs, decided before anything is changed."""

    config: Config
    run: Run
    argv: tuple[str, ...]
    offer: Offer
    resume_from: Path | None
    prepare_anew: bool
    until: float | None
    grace: float


def check_packages() -> None:
    """Check that the trainer's packages are installed, without importing them.

    Raises:
        UsageError: naming the package that is missing.
    """
    for name in ("accelerate", "axolotl"):
        if importlib.util.find_spec(name) is None:
            raise UsageError(
                f"The package {name} is not installed in {sys.prefix}.",
                "Install it with:  pip install leviathan-train    or run ./scripts/quickstart.sh",
            )


def build_argv(
    config: Config,
    resume_from: Path | None,
    accelerate: Sequence[str] = (),
    *,
    has_gpu: bool,
    python: str = sys.executable,
) -> tuple[str, ...]:
    """The whole command of a training.

    `--strict=False` stands first: with `strict: true` in the YAML, Axolotl drops every
    override of a key that the YAML lacks (axolotl 0.19, cli/config.py, `load_cfg`).

    Args:
        accelerate: arguments for `accelerate launch`; without any, a machine without a GPU
            gets the ones that make it train on its CPU.
    """
    if not accelerate and not has_gpu:
        accelerate = ("--cpu", "--num_processes", "1")
    overrides = {key: value for key, value in config.overrides.items() if key != "plugins"}
    overrides.pop("resume_from_checkpoint", None)
    resume = [f"--resume_from_checkpoint={_literal(str(resume_from))}"] if resume_from else []
    if not resume and config.resume_from_checkpoint:
        resume = ["--resume_from_checkpoint=None"]
    return (
        python,
        "-m",
        "accelerate.commands.launch",  # 1.5 s; the `accelerate` script imports every command, 6 s
        *accelerate,
        "-m",
        "axolotl.cli.train",
        str(config.path),
        "--strict=False",
        f"--plugins={json.dumps(config.plugins)}",
        *resume,
        *(f"--{key.replace('.', '__')}={_literal(value)}" for key, value in overrides.items()),
    )


def _literal(value: Any) -> str:
    """`value` so that Fire reads it back as it is."""
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z_./~][\w./~-]*", value):
        return value if value not in {"None", "True", "False"} else repr(value)
    return repr(value)


def build_env(session: Session, base: Mapping[str, str]) -> dict[str, str]:
    """The trainer's environment.

    torch's elastic agent would answer SIGTERM by a traceback and by killing its ranks after
    30 s; left to the ranks, it is a pause (`PET_` is torchrun's prefix for its options).
    Axolotl's telemetry is off unless the user sets `AXOLOTL_DO_NOT_TRACK=0`: without a
    network it keeps a finished trainer alive for minutes.
    """
    return dict(base) | {
        SESSION_ENV: str(session.path),
        "PYTHONUNBUFFERED": "1",
        "PYTHONIOENCODING": "utf-8",
        "AXOLOTL_DO_NOT_TRACK": base.get("AXOLOTL_DO_NOT_TRACK", "1"),
        "PET_SIGNALS_TO_HANDLE": "SIGQUIT",
        "TQDM_DISABLE": base.get("TQDM_DISABLE", "1"),
    }


def processes_of(accelerate: Sequence[str], *, has_gpu: bool) -> int | None:
    """Number of processes that the arguments of `accelerate launch` ask for, if they tell."""
    if not accelerate and not has_gpu:
        return 1
    for index, part in enumerate(accelerate):
        match = re.fullmatch(r"--num[_-]processes(?:=(\d+))?", part)
        if match:
            value = match[1] or (accelerate[index + 1] if index + 1 < len(accelerate) else "")
            return int(value) if value.isdigit() else None
    return None


def has_gpu() -> bool:
    """Whether this machine has a GPU that torch may use, told without importing torch."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in {"", "-1"}:
        return False
    return any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg"))


def open_session(plan: Plan, *, argv: Sequence[str] | None = None) -> Session:
    """Take the run for this process.

    Raises:
        LeviathanError: the run is training already.
    """
    return plan.run.open_session(
        {
            "config": str(plan.config.path),
            "cli": True,
            "argv": [_shown(part) for part in argv or plan.argv],
            "cwd": os.getcwd(),
            "resume_from": str(plan.resume_from) if plan.resume_from else None,
            "resume_step": plan.offer.checkpoint.step if plan.offer.checkpoint else None,
            "resume_from_config": str(plan.offer.from_config) if plan.offer.from_config else None,
            "branched": bool(set(plan.offer.newer) - set(plan.offer.damaged)),
            "prepare_anew": plan.prepare_anew,
            "until": plan.until,
            "grace": plan.grace,
        }
    )


def _shown(argument: str) -> str:
    key, equals, value = argument.partition("=")
    name = key.rpartition("__")[2].lstrip("-")
    return f"{key}=[redacted]" if equals and value and is_secret(name) else argument


def noted_signals() -> NotedSignals:
    """Ctrl+C and SIGTERM, noted while a training is started and followed.

    SIGHUP, a closed terminal, is ignored: the training goes on, and so do we.
    """
    return NotedSignals((signal.SIGINT, signal.SIGTERM), ignored=(signal.SIGHUP,))


def wait_for_window(run: Run, config: Config, opens: float) -> End | None:
    """Wait until a time of the clock, in reach of `pause`, `stop` and `status`.

    Args:
        opens: seconds since the epoch.

    Returns:
        None when it is time; otherwise how the waiting was ended.

    Raises:
        LeviathanError: the run is training already.
    """
    session = run.open_session({"config": str(config.path), "cli": True, "waiting_until": opens})
    status = Status(str(run.path), "waiting", os.getpid(), processes.hostname())
    write_json(session.status_file, asdict(replace(status, updated=time.time())))
    with noted_signals() as signals:
        while (left := opens - time.time()) > 0:
            by = "Ctrl+C" if signals.take() else ""
            if (asked := session.request) and asked.kind != "save":
                by = asked.by
            if by:
                session.close(End("stopped", None, None, by, time.time()))
            if end := session.end:
                return end
            time.sleep(min(left, 0.5))  # a clock may be set, a machine may sleep
    shutil.rmtree(session.path)
    return None


class Training:
    """A started trainer, followed until its end.

    Args:
        on_line: called with each line meant for the screen.
        on_status: called with the trainer's latest status, some times a second.
    """

    def __init__(
        self,
        plan: Plan,
        session: Session,
        signals: NotedSignals,
        on_line: Callable[[str], None],
        on_status: Callable[[Status | None, bool], None],
    ) -> None:
        self.plan = plan
        self.session = session
        self.log = plan.run.logs / f"training_{session.id}.log"
        self._on_line = on_line
        self._on_status = on_status
        self._signals = signals
        self._interrupts = 0
        self._asked: float | None = None
        self._grace = plan.grace
        self._read = 0
        self._registered = False

    def start(self) -> None:
        """Start the launcher in a session of its own, so that Ctrl+C reaches us alone."""
        self.plan.run.logs.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.plan.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=build_env(self.session, os.environ),
                start_new_session=True,
            )
        self.session.add_process(Process.of(self._process.pid), "launcher")

    def follow(self) -> End:
        """Follow the trainer until no process of it is left; signals become requests."""
        while True:
            ended = self._process.poll() is not None
            self._handle_signals()
            self._show()
            if not self._registered:
                self._check_registered(ended)
            if ended and not self.session.trainer_alive() and self._is_over():
                break
            if self._asked and time.time() > self._asked + self._grace + _MARGIN:
                self._end_hard(f"it did not end within {self._grace:.0f} s")
            if (end := self.session.end) and time.time() > end.at + _LINGER:
                self.session.kill()
            time.sleep(_POLL)
        self._show()
        self.session.kill()  # data workers and other orphans, if any
        return self.session.end or self._close()

    def _is_over(self) -> bool:
        """Whether a dead launcher left no trainer that has yet to tell of itself."""
        return self._registered or not self.session.stragglers()

    def _handle_signals(self) -> None:
        for number in self._signals.take():
            if number == signal.SIGINT:
                self._interrupts += 1
                if self._interrupts > 1:
                    self._end_hard("the second Ctrl+C")
                else:
                    self._ask("Ctrl+C", self.plan.grace)
            elif number == signal.SIGTERM:
                self._ask("SIGTERM", min(TERM_GRACE, self.plan.grace))

    def _ask(self, by: str, grace: float) -> None:
        self.session.ask("pause", by, grace)
        self._grace = grace if self._asked is None else min(self._grace, grace)
        self._asked = self._asked or time.time()
        status = self.session.status
        first = status and status.step == 0 and status.phase == "evaluating"
        if status is None or first or status.phase in {"starting", "data", "model"}:
            self._on_line("Stopping: training has not begun.")
            if status is None:  # still importing; it could not hear us for seconds
                self._end_hard(by, kind="stopped")
        else:
            self._on_line("Saving checkpoint...")

    def _end_hard(self, why: str, kind: Ending = "killed") -> None:
        self.session.kill()
        self._show()
        close_as(kind, self.plan.run, self.session, why)

    def _check_registered(self, ended: bool) -> None:
        """See that the plugin lives in the trainer; Axolotl only logs that it does not load."""
        if self.session.status_file.exists():
            self._registered = True
        elif ended or "Failed to load plugin: leviathan_train" in tail(self.log):
            if ended and self.session.stragglers():
                return
            failed = "Failed to load plugin: leviathan_train" in tail(self.log)
            if failed or (ended and self._process.returncode == 0 and self.session.end is None):
                self.session.kill()
                why = "the plugin leviathan_train.plugin did not load in the trainer"
                self.session.close(End("crashed", None, None, why, time.time()))
            self._registered = True

    def _show(self) -> None:
        try:
            with self.session.screen_file.open("rb") as stream:
                stream.seek(self._read)
                fresh = stream.read()
        except OSError:
            fresh = b""
        whole, newline, _ = fresh.rpartition(b"\n")
        if newline:
            self._read += len(whole) + 1
            for line in whole.decode("utf-8", "replace").split("\n"):
                self._on_line(line)
        self._on_status(self.session.status, self._asked is not None)

    def _close(self) -> End:
        """The recorded end; of a trainer that died without a word, what can be told of it."""
        run, session = self.plan.run, self.session
        asked = session.request
        if asked and asked.kind == "kill":
            return close_as("killed", run, session, asked.by)
        if self._asked or (asked and asked.kind == "pause"):
            return close_as("killed", run, session, "it ended before its checkpoint was whole")
        return close_as("crashed", run, session, cause_in(self.log))
