"""`leviathan checkpoints latest`, `best` and `show`: one checkpoint with its files."""

from __future__ import annotations

import click

from leviathan_train.checkpoints import store
from leviathan_train.checkpoints.store import Read
from leviathan_train.cli.checkpoints import scan, step_number, step_option
from leviathan_train.cli.options import as_json, find_run, run_argument
from leviathan_train.ui import checkpoints as pages
from leviathan_train.ui import text, values


@click.command(short_help="Show the newest intact one.")
@run_argument
@as_json
def latest(run: str | None, json: bool) -> None:
    """Show the newest intact checkpoint.

    Example:  leviathan checkpoints latest
    """
    _show(run, "latest", json=json)


@click.command(short_help="Show the best one.")
@run_argument
@as_json
def best(run: str | None, json: bool) -> None:
    """Show the best checkpoint, by the config's metric or by eval loss.

    Example:  leviathan checkpoints best
    """
    _show(run, "best", json=json)


@click.command(short_help="Show one of them.")
@run_argument
@step_option
@as_json
def show(run: str | None, step: str | None, json: bool) -> None:
    """Show one checkpoint, the newest intact one unless --step names another.

    Example:  leviathan checkpoints show --step 1000
    """
    _show(run, "latest" if step is None else str(step_number(step)), json=json)


def _show(target: str | None, choice: str, *, json: bool) -> None:
    run = find_run(target, quiet=json)
    scanned = scan(run, Read.NOTHING)
    shown = store.inspect(run, store.select(run, choice, scanned).path)
    if not shown.intact:  # then another may be meant
        scanned = scan(run, Read.NEW)
        shown = store.select(run, choice, scanned)
    value = values.details(run, shown, scanned)
    text.document(value) if json else pages.details(value, choice)
