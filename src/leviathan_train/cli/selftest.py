"""`leviathan selftest`: do pause and resume change nothing, with this config on this machine?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from leviathan_train.cli.options import (
    Count,
    LaunchCommand,
    as_json,
    config_argument,
    sets_option,
    typed,
)
from leviathan_train.cli.prompts import TerminalDialog
from leviathan_train.errors import DONE, FAILED
from leviathan_train.launch import selftest as core
from leviathan_train.system.files import folder_bytes
from leviathan_train.ui import text as render


@click.command(
    cls=LaunchCommand, short_help="Verify that pause and resume change nothing on this machine."
)
@config_argument
@click.option(
    "--steps",
    type=Count(min=8),
    default=20,
    show_default=True,
    metavar="N",
    help="How many steps to compare.",
)
@sets_option
@click.option("--yes", is_flag=True, help="Accept keys that Axolotl does not know.")
@as_json
@click.pass_context
def selftest(
    ctx: click.Context,
    config_path: Path,
    steps: int,
    sets: tuple[str, ...],
    yes: bool,
    json: bool,
    accelerate_args: tuple[str, ...],
) -> int:
    """Compare N steps straight with N steps that were paused and resumed on the way.

    Trains CONFIG three times for a few steps, in a folder of its own, which stays; the run
    itself is not touched. Exit status 0 if every bit is equal, 1 if not.

    Example:  leviathan selftest configs/demo_cpu.yaml --steps 20
    """
    dialog = TerminalDialog(quiet=json)
    found = core.run(config_path, sets, steps, accelerate_args, typed(ctx), dialog, yes=yes)
    if json:
        render.document(asdict(found))
    else:
        render.selftest(asdict(found))
        size = render.size(folder_bytes(Path(found.folder)))
        print(f"Its trainings stay in {found.folder} ({size}); you can delete that folder.")
    return DONE if found.identical else FAILED
