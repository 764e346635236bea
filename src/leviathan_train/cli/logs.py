"""`leviathan logs`: the log of a run's newest session."""

from __future__ import annotations

import contextlib

import click

from leviathan_train.cli.options import as_json, find_run, run_argument
from leviathan_train.errors import UsageError
from leviathan_train.run import log
from leviathan_train.ui import text, values
from leviathan_train.ui.log import show


@click.command(short_help="Print the newest session's log; --follow waits.")
@run_argument
@click.option(
    "--follow", is_flag=True, help="Keep printing until the training ends; Ctrl+C ends only this."
)
@as_json
def logs(run: str | None, follow: bool, json: bool) -> None:
    """Print everything that the newest session's training wrote, to its last line.

    With --follow it goes on as `tail -f` does, over restarts too, until the training ends. A
    pipe gets the log byte for byte; on a terminal control characters are shown, not obeyed.

    Example:  leviathan logs demo_cpu --follow
    """
    if follow and json:
        raise UsageError("--follow and --json cannot be combined.", "Use one of them.")
    found = find_run(run, quiet=True, live=True)
    session = log.newest_logged(found)
    if json:
        text.document(values.log(found, session, b"".join(log.pieces(session))))
        return
    if not follow:
        show(log.pieces(session))
        return
    with contextlib.suppress(KeyboardInterrupt):
        show(log.follow(found, session))
