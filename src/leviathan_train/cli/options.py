"""Arguments and options that commands share."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from leviathan_train.run import lookup
from leviathan_train.run.folder import Run
from leviathan_train.run.records import PAUSE_GRACE

run_argument = click.argument("run", required=False)
config_argument = click.argument("config_path", metavar="CONFIG", type=click.Path(path_type=Path))
sets_option = click.option(
    "--set", "sets", multiple=True, metavar="KEY=VALUE", help="Override a key of CONFIG."
)
accelerate_arguments = click.argument(
    "accelerate_args", nargs=-1, metavar="[-- ACCELERATE_LAUNCH_ARGS...]"
)
grace_option = click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=PAUSE_GRACE,
    metavar="SECONDS",
    help="Kill the trainer if it has not saved after this many seconds (default: 300).",
)
as_json = click.option("--json", is_flag=True, help="One JSON document on stdout, nothing else.")


def find_run(target: str | None, *, quiet: bool = False) -> Run:
    """The run meant by the RUN argument; the one used last is named on the screen.

    Args:
        quiet: name it on stderr, since stdout is for data.
    """
    found = lookup.find(target)
    if target is None:
        print(f"Run: {found.name}", file=sys.stderr if quiet else sys.stdout, flush=True)
    return found
