"""`leviathan check`: what would stop a run, or change its result."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from leviathan_train.cli.options import as_json, config_argument, sets_option
from leviathan_train.launch import cost, preflight
from leviathan_train.launch.findings import Level, document, exit_status
from leviathan_train.system import signs
from leviathan_train.ui import text as render

_SIGNS = {Level.OK: signs.OK, Level.WARNING: signs.WARNING, Level.ERROR: signs.FAULT}


@click.command(short_help="Tell what would stop CONFIG, or change its result.")
@config_argument
@sets_option
@click.option(
    "--gpu",
    metavar="SIZE",
    help="Judge for a GPU with this much memory, for example 16GB, instead of the one here.",
)
@as_json
def check(config_path: Path, sets: tuple[str, ...], gpu: str | None, json: bool) -> int:
    """Tell what would stop CONFIG, or change its result, before a GPU is touched.

    Looks at the base model, every row of the local data, what changed since the newest
    checkpoint, the GPU, the disk and the keys, and has Axolotl validate the config. Tells what
    the run will cost (memory, disk, steps, hours) and which rows will hurt: too long, without an
    answer, twice, trained on and evaluated. If anything would stop it, the exit status is the
    one that train would end with.

    Example:  leviathan check configs/demo_cpu.yaml
    """
    found = []
    card = cost.card_size(gpu) if gpu else None

    def show(line: str) -> None:
        if not json:
            # Not click.echo: in a terminal without UTF-8 it writes the signs all the same.
            print(render.folded(line, sys.stdout), flush=True)

    def tell(line: str) -> None:
        if sys.stdout.isatty():
            show(line)

    for finding in preflight.check(config_path, sets, card=card, tell=tell):
        found.append(finding)
        show(f"{_SIGNS[finding.level]} {finding.message}")
        if finding.hint:
            show(f"   {finding.hint}")
    if json:
        render.document(document(config_path, found))
    return exit_status(found)
