"""`leviathan stop`: as `pause`, or at once."""

from __future__ import annotations

import click

from leviathan_train.cli.options import as_json, find_run, grace_option, run_argument
from leviathan_train.cli.pause import asker, pause_and_wait, tell
from leviathan_train.errors import DONE, PAUSED
from leviathan_train.launch import requests


@click.command(short_help="Save and stop; with --now, kill it at once.")
@run_argument
@grace_option
@click.option("--now", is_flag=True, help="Kill it at once; the last checkpoint remains.")
@as_json
def stop(run: str | None, grace: float, now: bool, json: bool) -> int:
    """Save and stop, as pause does; with --now, kill the training at once.

    Example:  leviathan stop --now
    """
    found = find_run(run, quiet=json, live=True)
    if now:
        status = tell(requests.stop_now(found, asker("stop --now")), json=json)
        return DONE if status == PAUSED else status  # what was asked for
    return tell(pause_and_wait(found, "stop", grace), json=json)
