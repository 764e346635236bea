"""`leviathan pause`, `save`, `stop`, `status`, `runs`: a run seen from any terminal."""

from __future__ import annotations

import os

import click

from leviathan_train.cli import EXIT_STATUS
from leviathan_train.cli.options import as_json, find_run, run_argument
from leviathan_train.launch import requests as control
from leviathan_train.launch.outcome import exit_status
from leviathan_train.run.folder import Run
from leviathan_train.run.lookup import all_runs
from leviathan_train.run.records import PAUSE_GRACE, Ending
from leviathan_train.ui import text as render
from leviathan_train.ui import values as report

_GRACE = click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=PAUSE_GRACE,
    metavar="SECONDS",
    help="End it hard if it has not saved by then (default: 300).",
)


@click.command(short_help="Save and stop, from any terminal.", epilog=EXIT_STATUS)
@run_argument
@_GRACE
@as_json
def pause(run: str | None, grace: float, json: bool) -> int:
    """Save a checkpoint of the current step and stop, from any terminal.

    Exit status 0 when the training has stopped and nothing was lost.

    Example:  leviathan pause leviathan_10pct_a4000
    """
    return _tell(_pause(find_run(run, quiet=json), "pause", grace), json)


@click.command(short_help="Save and stop; with --now, end at once.", epilog=EXIT_STATUS)
@run_argument
@_GRACE
@click.option("--now", is_flag=True, help="End it at once; the last checkpoint remains.")
@as_json
def stop(run: str | None, grace: float, now: bool, json: bool) -> int:
    """Save and stop, as pause does; with --now, end at once.

    Example:  leviathan stop --now
    """
    found = find_run(run, quiet=json)
    if now:
        return _tell(control.stop_now(found, _who("stop --now")), json)
    return _tell(_pause(found, "stop", grace), json)


@click.command(short_help="Save and go on, from any terminal.", epilog=EXIT_STATUS)
@run_argument
@as_json
def save(run: str | None, json: bool) -> int:
    """Save a checkpoint of the current step and go on, from any terminal.

    Example:  leviathan save
    """
    return _tell(control.save(find_run(run, quiet=json), _who("save")), json)


@click.command(short_help="Tell what a run does now; --watch stays open.", epilog=EXIT_STATUS)
@run_argument
@click.option("--watch", is_flag=True, help="Keep a live screen open; Ctrl+C closes only it.")
@as_json
def status(run: str | None, watch: bool, json: bool) -> int:
    """Tell the phase, step, ETA, loss, learning rate, speed and GPU memory of a run.

    Example:  leviathan status --watch
    """
    found = find_run(run, quiet=True)
    if watch and not json:
        from leviathan_train.ui.dashboard.watch import watch as watch_live

        watch_live(found)
        return 0
    value = report.status(found)
    if json:
        render.document(value)
    else:
        render.status(value)
    return 0


@click.command(short_help="List every run below work/training.", epilog=EXIT_STATUS)
@as_json
def runs(json: bool) -> int:
    """List every run below work/training, the one used last first.

    Example:  leviathan runs
    """
    value = {"runs": [report.run_row(run) for run in all_runs()]}
    if json:
        render.document(value)
    else:
        render.runs(value)
    return 0


def _pause(run: Run, command: str, grace: float) -> control.Outcome:
    try:
        return control.pause(run, _who(command), grace)
    except KeyboardInterrupt:
        click.echo("\nNot waited for: the request stays, and the run will pause.", err=True)
        raise


def _who(command: str) -> str:
    return f"leviathan {command} (process {os.getpid()})"


def _tell(outcome: control.Outcome, json: bool) -> int:
    if json:
        render.document(report.outcome(outcome))
    else:
        render.request(outcome)
    if outcome.end is None or outcome.end.kind in {Ending.PAUSED, Ending.FINISHED, Ending.STOPPED}:
        return 0
    if outcome.end.kind is Ending.KILLED and exit_status(outcome.run, outcome.end) == 75:
        return 0
    return exit_status(outcome.run, outcome.end)
