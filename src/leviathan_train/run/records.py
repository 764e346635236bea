"""The records of a session: what one process writes into a run's folder and the other reads.

Each is a JSON object. A reader takes what it knows: an unknown key is passed over, and a key
that is missing or of another type has its default, so that versions can read each other.
"""

from __future__ import annotations

import functools
import time
import types
import typing
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from leviathan_train.system.files import read_json

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

TERM_GRACE = 60.0
"""Seconds that a SIGTERM leaves for the step and the save."""
PAUSE_GRACE = 300.0
"""Seconds that Ctrl+C and `leviathan pause` leave for them."""

END_OF_TIME = "the end of its time"
"""How a deadline is named to people, in `End.why`."""

NO_ROOM = "no space left on the disk"
"""How a full disk is named to people, in `End.why`."""

PROTOCOL = 2
"""How requests reach a trainer: 1 by `request.json` (version 0.1.0), 2 by a queue of files."""


class Phase(StrEnum):
    """What a session is doing."""

    WAITING = "waiting"
    STARTING = "starting"
    DATA = "data"
    MODEL = "model"
    TRAINING = "training"
    EVALUATING = "evaluating"
    SAVING = "saving"
    FINAL = "final"


BEFORE_TRAINING = frozenset({Phase.WAITING, Phase.STARTING, Phase.DATA, Phase.MODEL})
"""Phases in which there is no step to save yet."""


class Ending(StrEnum):
    """How a session ended.

    `finished`: training reached its end. `paused`: saved on request. `stopped`: ended on
    request before there was a step to save. `killed`: ended on request without a save.
    `crashed`: ended by a fault.
    """

    FINISHED = "finished"
    PAUSED = "paused"
    STOPPED = "stopped"
    KILLED = "killed"
    CRASHED = "crashed"


class Cause(StrEnum):
    """Why a session ended, for decisions; `End.why` tells it to people."""

    UNKNOWN = "unknown"
    DONE = "done"
    PERSON = "person"
    """Ctrl+C or a leviathan command."""
    SIGNAL = "signal"
    """SIGTERM, SIGUSR1, SIGUSR2, or the launcher's end."""
    DEADLINE = "deadline"
    """`--until`, `--for`, a Slurm job's time limit, or the end of a window."""
    HUNG = "hung"
    """No step ended within the grace period."""
    DIED = "died"
    """The trainer's process is gone and left no word."""
    CONFIG = "config"
    """Axolotl refused the config."""
    USAGE = "usage"
    """accelerate refused an argument."""
    UPSTREAM = "upstream"
    """The installed libraries lack something that leviathan stands on."""
    PLUGIN = "plugin"
    """The plugin did not load in the trainer."""
    LISTENER = "listener"
    """The thread that hears requests died."""
    GPU_MEMORY = "gpu memory"
    DISK = "disk"
    """A checkpoint could not be written."""
    FAULT = "fault"
    """Any other error."""


class RequestKind(StrEnum):
    """What is asked of a trainer: save and end, save and continue, or end at once."""

    PAUSE = "pause"
    SAVE = "save"
    KILL = "kill"


class SeamWord(StrEnum):
    """The verdict on a resume; `too early` while there are too few logged steps."""

    CONTINUOUS = "continuous"
    BROKEN = "broken"
    TOO_EARLY = "too early"


@dataclass(frozen=True)
class Status:
    """What the trainer last told of itself. Steps, seconds, and bytes."""

    run: str = ""
    phase: Phase = Phase.STARTING
    pid: int = 0
    host: str = ""
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
    listener_errors: int = 0
    updated: float = 0.0


@dataclass(frozen=True)
class Request:
    """What somebody asks of the trainer.

    Attributes:
        by: who asks, as shown to people.
        at: seconds since the epoch.
        grace: seconds after which a trainer that has not obeyed a pause is killed.
        cause: the cause of the end that this request leads to.
    """

    kind: RequestKind = RequestKind.PAUSE
    by: str = ""
    at: float = 0.0
    grace: float = PAUSE_GRACE
    cause: Cause = Cause.PERSON


@dataclass(frozen=True)
class Answer:
    """What became of a request to save.

    Attributes:
        checkpoint: name of the checkpoint that holds the step at which it was obeyed.
    """

    checkpoint: str = ""
    at: float = 0.0


@dataclass(frozen=True)
class End:
    """How a session ended.

    Attributes:
        step: the last step that is on disk, None if there is none.
        checkpoint: the checkpoint saved at the end.
        why: who asked, or what failed, for people.
        at: seconds since the epoch.
        cause: the same, for decisions.
    """

    kind: Ending = Ending.CRASHED
    step: int | None = None
    checkpoint: str | None = None
    why: str = ""
    at: float = 0.0
    cause: Cause = Cause.UNKNOWN

    @classmethod
    def stopped(cls, why: str, cause: Cause) -> End:
        """The end, now, of what was stopped before there was a step to save."""
        return cls(Ending.STOPPED, None, None, why, time.time(), cause)


@dataclass(frozen=True)
class Launch:
    """Who started a session, and with what.

    Attributes:
        started: seconds since the epoch.
        cli: whether a command line started it and follows its screen file.
        typed: the words of the command line that starts or resumes the run, as they were typed,
            without credentials; empty if it is not known.
        cwd: the folder from which relative paths of `config`, `argv` and `typed` start.
        resume_step: the step that the trainer must resume at.
        resume_from_config: the checkpoint that the config itself named, if it was obeyed.
        branched: whether newer checkpoints were set aside for this session.
        until: when the session must be off the GPU, seconds since the epoch.
        until_monotonic: the same in seconds of CLOCK_MONOTONIC on `host`, for a time that was
            given as a span; the sooner of the two counts.
        waiting_until: for a session that waits for its window: when that opens.
        slurm_job, slurm_restarts: the Slurm job it was started in, and which start of that job
            it was; see `system.slurm`.
        machines: how many machines train together; `host` is the first of them.
    """

    id: str = ""
    started: float = 0.0
    host: str = ""
    config: str = ""
    cli: bool = False
    argv: tuple[str, ...] = ()
    typed: tuple[str, ...] = ()
    cwd: str = ""
    resume_from: str | None = None
    resume_step: int | None = None
    resume_from_config: str | None = None
    branched: bool = False
    prepare_anew: bool = False
    until: float | None = None
    until_monotonic: float | None = None
    grace: float = PAUSE_GRACE
    waiting_until: float | None = None
    slurm_job: str = ""
    slurm_restarts: int = 0
    protocol: int = 1
    machines: int = 1

    def off_by(self, host: str, now: float, monotonic: float) -> float | None:
        """When the session must be off the GPU, by the wall clock; None if nothing limits it.

        Args:
            host, now, monotonic: where it is asked, and what both clocks say there. A span is
                known on the host of the session alone.
        """
        limits = [self.until] if self.until is not None else []
        if self.until_monotonic is not None and host == self.host:
            limits.append(now + self.until_monotonic - monotonic)
        return min(limits, default=None)


@dataclass(frozen=True)
class Begin:
    """The moment before a session's first step: seconds since the epoch, and the step."""

    at: float = 0.0
    first_step: int = 0


@dataclass(frozen=True)
class MirrorState:
    """What the process that copies checkpoints elsewhere last told, or a copy by hand.

    Attributes:
        url: where to, without credentials.
        pid: of the process, on `host`; 0 where no training has copied.
        copies: what is whole there: step, colon, beginning of the SHA-256 of its seal.
        copying: name of the checkpoint that is being copied.
        trouble: why the last try failed; empty while all is well.
        since: when that began, seconds since the epoch.
        other: who else writes there, so that nothing is copied meanwhile.
        done: whether nothing is left to copy.
        at: when this was told, seconds since the epoch.
    """

    url: str = ""
    pid: int = 0
    host: str = ""
    copies: tuple[str, ...] = ()
    copying: str | None = None
    trouble: str = ""
    since: float | None = None
    other: str = ""
    done: bool = False
    at: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """What the log looks like across a resume.

    Attributes:
        cause: the likely cause where it is broken; otherwise what was compared.
    """

    word: SeamWord = SeamWord.TOO_EARLY
    cause: str = ""


Record = TypeVar("Record", bound="DataclassInstance")


def read(kind: type[Record], path: Path) -> Record | None:
    """The record in a file, whichever version wrote it; None if there is none to be read."""
    return from_json(kind, read_json(path))


def from_json(kind: type[Record], value: Any) -> Record | None:
    """The record that a JSON object holds; None if `value` is no object, or an empty one."""
    if not isinstance(value, dict) or not value:
        return None
    known: dict[str, Any] = {}
    for name, expected in _types(kind).items():
        if name in value and (converted := _converted(value[name], expected)) is not _WRONG:
            known[name] = converted
    return kind(**known)


_WRONG = object()
_HUGE = 1 << 63
"""No count of steps, bytes or seconds is as large, and no float may hold what is larger."""


@functools.cache
def _types(kind: type[Any]) -> dict[str, Any]:
    """Name and type of each field; resolving the annotations takes a millisecond, so once."""
    return typing.get_type_hints(kind)


def _converted(value: Any, expected: Any) -> Any:
    """`value` as the type that a field has, or `_WRONG`."""
    if typing.get_origin(expected) is types.UnionType:  # `X | None`
        if value is None:
            return None
        (expected,) = (part for part in typing.get_args(expected) if part is not type(None))
    if typing.get_origin(expected) is tuple:
        return tuple(map(str, value)) if isinstance(value, list) else _WRONG
    if issubclass(expected, StrEnum):
        return expected(value) if isinstance(value, str) and value in set(expected) else _WRONG
    if isinstance(value, bool):
        return value if expected is bool else _WRONG
    if isinstance(value, int) and abs(value) >= _HUGE:
        return _WRONG
    if expected is float and isinstance(value, int):
        return float(value)
    return value if isinstance(value, expected) else _WRONG
