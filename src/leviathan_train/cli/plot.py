"""`leviathan plot`: the curves of runs in one figure."""

from __future__ import annotations

import time
from pathlib import Path

import click

from leviathan_train.cli import complete
from leviathan_train.cli.options import as_json, check_output, find_run
from leviathan_train.errors import UsageError
from leviathan_train.system import signs
from leviathan_train.ui import text, values


@click.command(short_help="Draw loss, learning rate and gradient norm.")
@click.argument("runs", metavar="[RUN]...", nargs=-1, shell_complete=complete.runs)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="FILE.html, FILE.png or FILE.svg; without it <run>.html in the current folder, or"
    " runs.html for several.",
)
@as_json
def plot(runs: tuple[str, ...], output: Path | None, json: bool) -> None:
    """Draw loss, eval loss, learning rate and gradient norm over the steps, in one figure.

    Resumes, checkpoints, the best of them and superseded branches are marked; several runs are
    drawn over one another. A page needs no network; a picture is drawn by matplotlib. --json
    gives the values, and writes a file only with --output.

    Example:  leviathan plot --output loss.html
    """
    from leviathan_train.ui.plot import data, page, picture

    if output is not None:
        check_output(output, (".html", ".png", ".svg"))
        if output.suffix != ".html":
            picture.check_drawable()
    figures = data.read_all([find_run(run, quiet=True) for run in runs or (None,)])
    drawn = [one for one in figures if one.logged]
    if not drawn:
        raise UsageError(
            " ".join(f"Nothing to draw of {one.name}: {one.missing}." for one in figures),
            "A line is logged each logging_steps; see them with:  leviathan logs",
        )
    if output is None and not json:
        name = Path(drawn[0].name).name if len(drawn) == 1 else "runs"
        output = Path(f"{name}.html")
        check_output(output, (".html",))
    if output is not None:
        if output.suffix == ".html":
            page.write(drawn, output, at=time.time())
        else:
            picture.write(drawn, output)
    if json:
        told = {"output": str(output) if output else None}
        text.document(values.plot(figures) | told)
    else:
        points = sum(one.logged for one in figures)
        for one in figures:
            gaps = one.gaps() if one.logged else [f"Nothing to draw of {one.name}: {one.missing}."]
            print("".join(f"{signs.WARNING} {text.plain(line)}\n" for line in gaps), end="")
        print(f"Plot of {text.count(points, 'logged value')}: {text.plain(output)}")
