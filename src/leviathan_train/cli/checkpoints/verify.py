"""`leviathan checkpoints verify`: every byte read again."""

from __future__ import annotations

import click

from leviathan_train.checkpoints import store
from leviathan_train.cli.checkpoints import step_number, step_option
from leviathan_train.cli.options import as_json, find_run, run_argument
from leviathan_train.errors import DONE, FAILED
from leviathan_train.ui import checkpoints as pages
from leviathan_train.ui import text, values


@click.command(short_help="Read every file again and compare it.")
@run_argument
@step_option
@as_json
def verify(run: str | None, step: str | None, json: bool) -> int:
    """Read every file of every checkpoint and compare it with the seal.

    Exit status 1 if any is damaged.

    Example:  leviathan checkpoints verify --step 1000
    """
    found = find_run(run, quiet=json)
    number = None if step is None else step_number(step)
    known = [known for known, _ in store.folders(found)]
    if number is not None and number not in known:
        raise store.no_such_step(found, number, known)
    scanned = []
    for checkpoint in store.scanning(found, store.Read.ALL, step=number):
        scanned.append(checkpoint)
        if not json:
            pages.verified(values.verified(checkpoint))
    value = values.verification(found, scanned)
    text.document(value) if json else pages.verification(value)
    return FAILED if value["damaged"] else DONE
