"""`leviathan save`: save and continue, from any terminal."""

from __future__ import annotations

import click

from leviathan_train.cli.options import as_json, find_run, run_argument
from leviathan_train.cli.pause import asker, tell
from leviathan_train.launch import requests


@click.command(short_help="Save and continue, from any terminal.")
@run_argument
@as_json
def save(run: str | None, json: bool) -> int:
    """Save a checkpoint of the current step and continue, from any terminal.

    Example:  leviathan save
    """
    return tell(requests.save(find_run(run, quiet=json, live=True), asker("save")), json=json)
