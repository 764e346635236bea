"""`leviathan checkpoints push`: copy checkpoints to the mirror now."""

from __future__ import annotations

import click

from leviathan_train.checkpoints import store
from leviathan_train.cli import complete
from leviathan_train.cli.checkpoints import mirror_of, mirror_option, step_number
from leviathan_train.cli.options import find_run, run_argument
from leviathan_train.errors import LeviathanError
from leviathan_train.ui.text import count


@click.command(short_help="Copy them to the mirror now.")
@run_argument
@click.option("--step", metavar="STEP", help="Only this one.", shell_complete=complete.steps)
@mirror_option
@click.option("--yes", is_flag=True, help="Replace what another machine wrote there.")
def push(run: str | None, step: str | None, mirror: str | None, yes: bool) -> None:
    """Copy each sealed checkpoint that the mirror lacks, the newest first.

    Every file is read back there, and the seal is written last.

    Example:  leviathan checkpoints push --mirror s3://bucket/runs
    """
    from leviathan_train.mirror import client

    found = find_run(run)
    place = mirror_of(found, mirror)
    chosen = None if step is None else step_number(step)
    known = store.scan(found, step=chosen)
    if chosen is not None and not known:
        raise store.no_such_step(found, chosen, [number for number, _ in store.folders(found)])
    whole = [item for item in reversed(known) if item.state == "intact"]
    if chosen is not None and not whole:
        raise LeviathanError(
            f"{known[0].name} is {known[0].state}, and only an intact, sealed one is copied."
        )
    names = client.push(
        place,
        found,
        [item.step for item in whole],
        lambda name: print(f"Copying {name} to {place.shown}...", flush=True),
        replace=yes,
    )
    there = len(whole) - len(names)
    print(f"{count(len(names), 'checkpoint')} copied, {there} there already.")
