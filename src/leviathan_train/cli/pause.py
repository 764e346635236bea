"""`leviathan pause`: save and stop, from any terminal."""

from __future__ import annotations

import os

import click

from leviathan_train.cli.options import as_json, find_run, grace_option, run_argument
from leviathan_train.errors import DONE
from leviathan_train.launch import requests
from leviathan_train.launch.outcome import exit_status
from leviathan_train.launch.requests import Outcome
from leviathan_train.run.folder import Run
from leviathan_train.run.records import Ending
from leviathan_train.ui import text, values


@click.command(short_help="Save and stop, from any terminal.")
@run_argument
@grace_option
@as_json
def pause(run: str | None, grace: float, json: bool) -> int:
    """Save a checkpoint of the current step and stop, from any terminal.

    Exit status 0 when the training has stopped and nothing was lost.

    Example:  leviathan pause leviathan_10pct_a4000
    """
    return tell(pause_and_wait(find_run(run, quiet=json, live=True), "pause", grace), json=json)


def pause_and_wait(run: Run, command: str, grace: float) -> Outcome:
    """Pause a training on behalf of `command`; Ctrl+C ends only the waiting."""
    try:
        return requests.pause(run, asker(command), grace)
    except KeyboardInterrupt:
        click.echo("\nNo longer waiting: the request stays, and the run will pause.", err=True)
        raise


def asker(command: str) -> str:
    """Who asks, as the run and its log name it."""
    return f"leviathan {command} (process {os.getpid()})"


def tell(outcome: Outcome, *, json: bool) -> int:
    """Print what a request came to.

    Returns:
        The exit status: 0 if nothing was lost.
    """
    text.document(values.outcome(outcome)) if json else text.request(outcome)
    end = outcome.end
    if end is None or end.kind in {Ending.PAUSED, Ending.FINISHED, Ending.STOPPED}:
        return DONE
    return exit_status(outcome.run, end)
