"""`leviathan status`: what a run does now."""

from __future__ import annotations

import click

from leviathan_train.cli.options import as_json, find_run, run_argument
from leviathan_train.errors import UsageError
from leviathan_train.launch import activity
from leviathan_train.ui import text, values


@click.command(short_help="Show what a run does now; --watch keeps showing it.")
@run_argument
@click.option("--watch", is_flag=True, help="Keep a live screen open; Ctrl+C closes only it.")
@as_json
def status(run: str | None, watch: bool, json: bool) -> None:
    """Show the phase, step, ETA, loss, learning rate, speed and GPU memory of a run.

    Example:  leviathan status --watch
    """
    if watch and json:
        raise UsageError("--watch and --json cannot be combined.", "Use one of them.")
    found = find_run(run, quiet=True, live=True, told=not (json or watch))
    if watch:
        from leviathan_train.ui.dashboard.watch import watch as watch_live

        watch_live(found)
        return
    value = values.status(activity.look(found))
    text.document(value) if json else text.status(value)
