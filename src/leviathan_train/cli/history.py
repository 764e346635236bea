"""`leviathan history`: the sessions of a run."""

from __future__ import annotations

import click

from leviathan_train.cli.options import as_json, find_run, run_argument
from leviathan_train.run import history as sessions
from leviathan_train.ui import text, values


@click.command(short_help="Show how each session of a run went.")
@run_argument
@as_json
def history(run: str | None, json: bool) -> None:
    """Show every session of a run: when, how far, why it ended, and whether its resume
    continued the loss of the session before.

    Example:  leviathan history leviathan_10pct_a4000
    """
    found = find_run(run, quiet=json, live=True)
    value = values.history(found, sessions.history(found))
    text.document(value) if json else text.history(value)
