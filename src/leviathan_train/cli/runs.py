"""`leviathan runs`: every run."""

from __future__ import annotations

import click

from leviathan_train.checkpoints import store
from leviathan_train.cli.options import as_json
from leviathan_train.launch import activity
from leviathan_train.run.lookup import all_runs
from leviathan_train.ui import text, values


@click.command(short_help="List every run on this machine.")
@as_json
def runs(json: bool) -> None:
    """List every run below work/training, and every one that trained elsewhere.

    Those that train come first, then the one used last.

    Example:  leviathan runs
    """
    rows = []
    for run in all_runs():
        found = store.scan(run, store.Read.NOTHING)
        rows.append(values.run_row(activity.look(run, found), found))
    value = {"runs": rows}
    text.document(value) if json else text.runs(value)
