"""`leviathan checkpoints pull`: fetch a checkpoint from the mirror."""

from __future__ import annotations

import click

from leviathan_train.checkpoints import store
from leviathan_train.cli import complete
from leviathan_train.cli.checkpoints import mirror_of, mirror_option, step_number
from leviathan_train.cli.options import find_run, run_argument
from leviathan_train.errors import UsageError
from leviathan_train.ui.text import size


@click.command(short_help="Fetch one from the mirror.")
@run_argument
@click.option(
    "--step",
    metavar="STEP",
    help="Fetch this one; otherwise the newest one that is whole there.",
    shell_complete=complete.steps,
)
@mirror_option
def pull(run: str | None, step: str | None, mirror: str | None) -> None:
    """Fetch a checkpoint, and compare every byte of it with its seal.

    It goes on where an interrupted one ended, and never replaces what is whole. RUN may be a run
    that is not on this machine yet.

    Example:  leviathan checkpoints pull my-lora --mirror s3://bucket/runs
    """
    from leviathan_train.launch.mirrored import fetch
    from leviathan_train.mirror import client
    from leviathan_train.mirror.copies import to_fetch
    from leviathan_train.run import lookup

    found = lookup.find_or_new(run) if run else find_run(None)
    place = mirror_of(found, mirror)
    copies, _ = client.look(place, found)
    local = store.scan(found, store.Read.NOTHING)
    wanted = to_fetch(str(step_number(step)) if step else "latest", local, copies)
    if not wanted:
        there = ", ".join(str(copy.step) for copy in copies)
        if step is None and there:
            print(f"Nothing to fetch: {found.name} has what is newest at {place.shown}.")
            return
        chosen = step_number(step) if step else None
        if any(item.step == chosen and item.intact for item in local):
            print(f"Nothing to fetch: {found.name} has checkpoint-{chosen}.")
            return
        raise UsageError(
            f"{place.shown} has no whole checkpoint {f'of step {step} ' if step else ''}for"
            f" {found.name} to fetch.",
            f"It has: {there or 'none'}.",
        )
    copy = wanted[0]
    print(f"Fetching {copy.name} ({size(copy.bytes)}) from {place.shown}...", flush=True)
    path = fetch(place, found, copy, local)
    print(f"Fetched and verified: {path}")
