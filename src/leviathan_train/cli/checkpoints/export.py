"""`leviathan checkpoints export`: the numbers of all checkpoints, as JSON or CSV."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import click

from leviathan_train.checkpoints.store import Read
from leviathan_train.cli.checkpoints import scan
from leviathan_train.cli.options import as_json, check_output, find_run, run_argument
from leviathan_train.system.files import write_text
from leviathan_train.ui import text, values

_COLUMNS = ["step", "epoch", "loss", "eval_loss", "learning_rate", "grad_norm"]
_COLUMNS += ["bytes", "modified", "state", "path"]


@click.command(short_help="Export the numbers for analysis.")
@run_argument
@click.option(
    "--output", type=click.Path(path_type=Path), metavar="FILE", help="FILE.json or FILE.csv."
)
@as_json
def export(run: str | None, output: Path | None, json: bool) -> None:
    """Export steps, losses, learning rates, sizes and times for analysis.

    Without --output the JSON goes to stdout. A CSV holds a line for each step that was
    logged or saved.

    Example:  leviathan checkpoints export --output checkpoints.json
    """
    if output is not None:
        check_output(output, (".json", ".csv"))
    found = find_run(run, quiet=True)
    value = values.export(found, scan(found, Read.NOTHING))
    if output is None:
        text.document(value)
        return
    write_text(output, _csv(value) if output.suffix == ".csv" else values.dumps(value) + "\n")
    if json:
        text.document({"run": found.name, "output": str(output)})
    else:
        told = text.count(len(value["checkpoints"]), "checkpoint")
        print(f"Exported {told} to {text.plain(output)}")


def _csv(value: values.Value) -> str:
    """A line for each logged step, and the checkpoint's columns where one was saved.

    An evaluation stands in the line of the step where it was measured, and nowhere else.
    """
    saved = {entry["step"]: entry for entry in value["checkpoints"]}
    lines: dict[int, values.Value] = {}
    for logged in value["log_history"]:
        if isinstance(logged.get("step"), int):
            lines.setdefault(logged["step"], {}).update(logged)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, _COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for step in sorted(lines.keys() | saved.keys()):
        own = dict(saved.get(step, {}))
        if own.get("eval_step") not in {None, step}:
            own["eval_loss"] = None
        writer.writerow(own | lines.get(step, {}) | {"step": step})
    return stream.getvalue()
