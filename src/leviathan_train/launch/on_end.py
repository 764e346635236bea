"""`--on-end COMMAND`: a shell command that is run once, when a training's command ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from leviathan_train.checkpoints import store as checkpoints
from leviathan_train.errors import FAILED, STOPPED, Busy, LeviathanError
from leviathan_train.run.folder import Run
from leviathan_train.run.records import End, Ending
from leviathan_train.system.processes import Process
from leviathan_train.system.signals import CLOSING, NotedSignals

_POLL = 0.05


@dataclass
class Result:
    """What a command came to.

    Attributes:
        end: how the last session ended; None if it is not known.
        status: the exit status.
        patience: seconds for which the command is waited for; None for as long as it takes.
    """

    end: End | None = None
    status: int = FAILED
    patience: float | None = None


@contextlib.contextmanager
def on_end(command: str | None, run: Run, tell: Callable[[str], None]) -> Iterator[Result]:
    """Run `command` when the block ends, however it ends.

    Only where the block was refused, since the run is training already, there is no end: that
    training goes on. Whatever the block raises is raised again; the command changes nothing
    of it.

    Args:
        command: for the shell; None for none.
        tell: shows a line, of a command that failed.

    Yields:
        The result, to be filled in by the block.
    """
    result = Result()
    try:
        yield result
    except BaseException as error:
        if command and not (isinstance(error, Busy) and not _was_ours(run)):
            _run(command, run, _failed(result, error), tell)
        raise
    if command:
        _run(command, run, result, tell)


def _was_ours(run: Run) -> bool:
    """Whether this process has had a session of the run."""
    return any(session.processes().get("cli") == Process.of() for session in run.sessions())


def _failed(result: Result, error: BaseException) -> Result:
    """The result of a block that ended by an error."""
    status, kind, why = FAILED, Ending.CRASHED, str(error) or type(error).__name__
    if isinstance(error, LeviathanError):
        status, why = error.exit_code, error.message
    elif isinstance(error, KeyboardInterrupt):
        status, kind, why = STOPPED, Ending.STOPPED, "Ctrl+C"
    end = result.end or End(kind, None, None, why, time.time())
    return Result(end, status)


def _facts(run: Run, result: Result) -> dict[str, str]:
    """What the command finds in its environment."""
    end = result.end or End()
    step = end.step if end.kind in {Ending.PAUSED, Ending.FINISHED} else None
    if step is None:
        with contextlib.suppress(OSError):
            newest = checkpoints.latest(checkpoints.scan(run, checkpoints.Read.NOTHING))
            step = newest.step if newest else None
    return {
        "LEVIATHAN_RUN": run.name,
        "LEVIATHAN_PATH": str(run.path.resolve()),
        "LEVIATHAN_STATUS": str(result.status),
        "LEVIATHAN_END": end.kind,
        "LEVIATHAN_STEP": "" if step is None else str(step),
        # An environment holds no NUL character; a mail's subject has no line break.
        "LEVIATHAN_WHY": " ".join(end.why.replace("\0", " ").split()),
    }


def _run(command: str, run: Run, result: Result, tell: Callable[[str], None]) -> None:
    """Run the command to its end; Ctrl+C or SIGTERM end only the waiting for it.

    It gets a session of its own: a Ctrl+C that was meant for the training, and the closing of
    the terminal, do not reach it.
    """
    begun = time.monotonic()
    with NotedSignals(CLOSING[:2], ignored=(signal.SIGHUP,)) as signals:
        try:
            process = subprocess.Popen(
                command,
                shell=True,
                stdin=subprocess.DEVNULL,
                env=os.environ | _facts(run, result),
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            tell(f"--on-end could not be started: {error}")
            return
        while process.poll() is None:
            late = result.patience is not None and time.monotonic() > begun + result.patience
            if signals or late:
                tell(f"No longer waiting for --on-end: it continues as process {process.pid}.")
                return
            time.sleep(_POLL)
    if process.returncode < 0:
        tell(f"--on-end was killed by {signal.Signals(-process.returncode).name}.")
    elif process.returncode:
        tell(f"--on-end failed with exit status {process.returncode}.")
