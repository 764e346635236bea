"""`leviathan checkpoints ...`: what is saved, whether it is intact, and what may go."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leviathan_train.checkpoints import store
from leviathan_train.checkpoints.store import Checkpoint
from leviathan_train.cli import LazyGroup, complete
from leviathan_train.config.redact import REDACTED
from leviathan_train.errors import Declined, UsageError
from leviathan_train.run.folder import Run

if TYPE_CHECKING:
    from leviathan_train.mirror.place import Place

_MODULES = {
    "list": "list",
    "latest": "show",
    "best": "show",
    "show": "show",
    "verify": "verify",
    "cleanup": "cleanup",
    "export": "export",
    "reseal": "reseal",
    "push": "push",
    "pull": "pull",
}


@click.group(
    cls=LazyGroup, modules={name: f"{__name__}.{module}" for name, module in _MODULES.items()}
)
def checkpoints() -> None:
    """List, verify, export, copy and clean up a run's checkpoints."""


step_option = click.option(
    "--step",
    metavar="STEP",
    help="Only the checkpoint of this step.",
    shell_complete=complete.steps,
)


mirror_option = click.option(
    "--mirror",
    metavar="URL",
    help="Where the copies are; otherwise what the run's config names, or what was used last.",
)


def mirror_of(run: Run, option: str | None) -> Place:
    """The place that `--mirror` names, or the run's config, or that was used last.

    Raises:
        UsageError: there is none, or it cannot be used again without its login.
    """
    from leviathan_train.config.load import load_config
    from leviathan_train.mirror.place import place_of

    values: Mapping[str, Any] = {}
    session = run.session()
    if option is None and session:
        with contextlib.suppress(UsageError):
            launch = session.launch
            values = load_config(Path(launch.cwd, launch.config)).values
    if option is None and not values.get("leviathan_mirror") and run.mirror:
        option = run.mirror.url
        if REDACTED in option:
            raise UsageError(
                f"The mirror of {run.name} was named with a login, which is recorded nowhere.",
                "Name it again with:  --mirror URL",
            )
    if place := place_of(run, values, option):
        return place
    raise UsageError(
        f"{run.name} has no mirror.",
        "Name one with:  --mirror URL    or in the config:  leviathan_mirror: URL",
    )


def scan(run: Run, read: store.Read) -> list[Checkpoint]:
    """As `store.scan`; at a terminal, where much must be read first, it says so."""
    scanned, began = [], time.monotonic()
    for checkpoint in store.scanning(run, read):
        if sys.stderr.isatty() and began and time.monotonic() - began > 1:
            print("Reading what was not verified yet...", file=sys.stderr)
            began = 0.0
        scanned.append(checkpoint)
    return scanned


def step_number(step: str) -> int:
    """The number that `--step` gives.

    Raises:
        UsageError: it is not a number.
    """
    number = store.step_of(step)
    if number is None:
        raise UsageError(f"--step {step}: not the number of a step.", "For example:  --step 1000")
    return number


def allow(question: str, *, yes: bool, json: bool = False) -> None:
    """Ask before what cannot be undone; without a terminal, or with --json, --yes is needed.

    Raises:
        UsageError: nobody can be asked.
        Declined: the answer was no.
    """
    if yes:
        return
    if json:  # stdout is for the document
        raise UsageError("With --json nothing is asked, so nothing was changed.", "Add --yes.")
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("Cannot ask without a terminal, so nothing was changed.", "Add --yes.")
    from leviathan_train.cli.prompts import confirm

    if not confirm(question):
        raise Declined("Nothing was changed.")
