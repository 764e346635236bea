"""`leviathan checkpoints list`: all checkpoints of a run."""

from __future__ import annotations

import click

from leviathan_train.checkpoints.store import Read
from leviathan_train.cli.checkpoints import scan
from leviathan_train.cli.options import as_json, find_run, run_argument
from leviathan_train.ui import checkpoints as pages
from leviathan_train.ui import text, values


@click.command(short_help="List them: size, date, losses, whether intact.")
@run_argument
@as_json
def list(run: str | None, json: bool) -> None:
    """List the checkpoints: size, date, losses, whether they are intact.

    What was not read before is judged by its structure and sizes; `verify` reads it all.

    Example:  leviathan checkpoints list leviathan_10pct_a4000
    """
    found = find_run(run, quiet=json)
    value = values.listing(found, scan(found, Read.NOTHING))
    text.document(value) if json else pages.listing(value)
