"""`leviathan checkpoints reseal`: trust a checkpoint that was edited on purpose."""

from __future__ import annotations

import click

from leviathan_train.checkpoints import reseal as resealing
from leviathan_train.checkpoints import store
from leviathan_train.cli import complete
from leviathan_train.cli.checkpoints import allow, step_number
from leviathan_train.cli.options import find_run, run_argument
from leviathan_train.ui import text


@click.command(short_help="Seal again one that was edited on purpose.")
@run_argument
@click.option(
    "--step",
    required=True,
    metavar="STEP",
    help="The checkpoint that was edited.",
    shell_complete=complete.steps,
)
@click.option("--yes", is_flag=True, help="Do not ask.")
def reseal(run: str | None, step: str, yes: bool) -> None:
    """Seal again a checkpoint that was edited on purpose, after showing what changed.

    Example:  leviathan checkpoints reseal --step 1000
    """
    number = step_number(step)
    found = find_run(run)
    known = store.scan(found, store.Read.ALL, step=number)
    if not known:
        raise store.no_such_step(found, number, [step for step, _ in store.folders(found)])
    checkpoint = known[0]
    changes = resealing.changes(checkpoint)
    if not changes:
        print(f"{checkpoint.name} matches its seal; nothing to do.")
        return
    for line in changes:
        print(f"  {text.plain(line)}")
    allow(f"Trust {checkpoint.name} as it is now?", yes=yes)
    resealing.reseal(found, checkpoint)
    print(f"{checkpoint.name} is sealed as it is now.")
