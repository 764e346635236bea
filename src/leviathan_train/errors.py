"""Known errors and the exit statuses a user may rely on."""

from __future__ import annotations

DONE = 0
FAILED = 1
USAGE = 2
PAUSED = 75  # EX_TEMPFAIL: there is an intact checkpoint to resume from
STOPPED = 130  # as a shell reports Ctrl+C: nothing to resume from


class LeviathanError(Exception):
    """A failure that has a name: shown as one line and a hint, never as a traceback.

    Args:
        message: what is wrong and where (file, key, line).
        hint: what to type or do next.
    """

    exit_code = FAILED

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(LeviathanError):
    """A bad option, a bad config, or a thing that does not exist."""

    exit_code = USAGE


class Busy(LeviathanError):
    """Another training of the same run is going on."""


class DiskFullError(LeviathanError):
    """A training that could save no more; there is an intact checkpoint to resume from."""

    exit_code = PAUSED


class Stopped(LeviathanError):
    """A person ended the command; that is not a failure, and is not shown as one."""

    exit_code = STOPPED


class Declined(Stopped):
    """The user said no at a prompt; nothing was changed."""
