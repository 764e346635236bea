"""The logs of a run's sessions: all of one as it grows, its last lines, its last error."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from itertools import dropwhile
from pathlib import Path

from leviathan_train.errors import UsageError
from leviathan_train.run import liveness
from leviathan_train.run.folder import Run
from leviathan_train.run.records import Cause
from leviathan_train.run.session import Session

TAIL = 200_000
"""Bytes of a log in which its last error is looked for."""
_CAUSES = {"OutOfMemoryError": Cause.GPU_MEMORY, "ValidationError": Cause.CONFIG}
"""What the class of an exception is a sign of; other classes are of a fault."""
_REFUSED = re.compile(r"^Accelerate launch command: error: (.+)")
"""How the launcher refuses its own arguments."""
_PIECE = 1 << 20
_POLL = 0.2


def newest_logged(run: Run) -> Session:
    """The newest session that has a log; one that waits for its window has none.

    Raises:
        UsageError: there is none.
    """
    sessions = run.sessions()
    for session in reversed(sessions):
        if session.log.is_file():
            return session
    if not sessions:
        raise UsageError(
            f"{run.name} has no log: no session of leviathan is recorded in {run.path}.",
            "A log is written by:  leviathan train CONFIG",
        )
    raise UsageError(
        f"{run.name} has no log: there is no file {sessions[-1].log}.",
        f"What else is known of its sessions:  leviathan history {run.name}",
    )


def pieces(session: Session) -> Iterator[bytes]:
    """The log of a session up to its end as it is now.

    Raises:
        OSError: it cannot be read.
    """
    with session.log.open("rb") as stream:
        while piece := stream.read(_PIECE):
            yield piece


def follow(
    run: Run, session: Session, *, sleep: Callable[[float], None] = time.sleep
) -> Iterator[bytes]:
    """The log of a session as it grows, and those of the sessions after it.

    It ends when the newest session has ended and the command that started it as well: with
    `--max-restarts` or `--window`, that command goes on with further sessions.

    Raises:
        OSError: a log cannot be read.
    """
    while True:
        with session.log.open("rb") as stream:
            while True:
                # In this order: what is written before an end, or a next session, is not missed.
                after, over = _logged_after(run, session), _is_over(run)
                while piece := stream.read(_PIECE):
                    yield piece
                if after or over:
                    break
                sleep(_POLL)
        if after is None:
            return
        session = after


def _logged_after(run: Run, session: Session) -> Session | None:
    """The next session that has a log."""
    later = dropwhile(lambda one: one.id != session.id, run.sessions())
    return next((one for one in later if one.id != session.id and one.log.is_file()), None)


def _is_over(run: Run) -> bool:
    """Whether nothing lives that could write another line."""
    newest = run.session()
    if newest is None:
        return True
    over = not liveness.alive(newest) and not liveness.command_alive(newest)
    # A session that waited for its window is removed when that opens.
    return over and run.session() == newest


def cause_in(log: Path) -> tuple[str, Cause]:
    """The last error of a log, in one line, and what it is a sign of.

    For a process that died without a record of its end: there the log is all there is.
    """
    lines = tail(log).splitlines()
    error = re.compile(
        r"^(?:\[rank\d+\]: *)?([A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit)\b.*)"
    )
    found = [match[1] for line in lines if (match := error.match(line))]
    # The launcher's own complaint about its child comes last and says nothing.
    own = [line for line in found if "CalledProcessError" not in line and "ChildFailed" not in line]
    if own:
        name = own[-1].partition(":")[0].rpartition(".")[2]
        return " ".join(own[-1].split())[:500], _CAUSES.get(name, Cause.FAULT)
    refused = [match[1] for line in lines if (match := _REFUSED.match(line))]
    if refused:
        return " ".join(refused[-1].split())[:500], Cause.USAGE
    if any("SIGKILL" in line for line in lines[-40:]):
        return "killed by SIGKILL, possibly by the kernel's out-of-memory killer", Cause.DIED
    return "it ended without an error message", Cause.DIED


def plugin_failed_to_load(log: Path) -> bool:
    """Whether Axolotl's log says that our plugin did not load.

    axolotl 0.19 (integrations/base.py, `PluginManager.register`) logs it and trains on without
    the plugin; 0.21 raises.
    """
    failed = r"(Failed to load plugin|Could not load required plugin):? '?leviathan_train"
    return re.search(failed, tail(log)) is not None


def tail(path: Path) -> str:
    """The last `TAIL` bytes of a log; empty where it cannot be read."""
    try:
        with path.open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - TAIL))
            return stream.read().decode("utf-8", "replace")
    except OSError:
        return ""
