"""Arguments and options that commands share."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from leviathan_train.cli import complete
from leviathan_train.errors import LeviathanError, UsageError
from leviathan_train.run import lookup
from leviathan_train.run.folder import Run
from leviathan_train.run.records import PAUSE_GRACE

if TYPE_CHECKING:
    from leviathan_train.launch.command import Typed

run_argument = click.argument("run", required=False, shell_complete=complete.runs)
config_argument = click.argument(
    "config_path",
    metavar="CONFIG",
    type=click.Path(path_type=Path),
    shell_complete=complete.configs,
)
sets_option = click.option(
    "--set", "sets", multiple=True, metavar="KEY=VALUE", help="Override a key of CONFIG."
)


class Seconds(click.FloatRange):
    """A number of seconds that ends: `nan` and `inf` would be deadlines that never come."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a number of seconds.", param, ctx)
        return float(super().convert(value, param, ctx))


class Count(click.IntRange):
    """A whole number within bounds, called so where it is none."""

    name = "whole number"


grace_option = click.option(
    "--grace",
    type=Seconds(min=0),
    default=PAUSE_GRACE,
    metavar="SECONDS",
    help="Kill the trainer if it has not saved after this many seconds (default: 300).",
)
as_json = click.option("--json", is_flag=True, help="One JSON document on stdout, nothing else.")


class LaunchCommand(click.Command):
    """A command that hands what follows `--`, and nothing else, to `accelerate launch`.

    Its function gets it as `accelerate_args`. Click itself would mix it with the arguments
    before `--`, so that a second config would be taken for an argument of the launcher.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = args[: args.index("--")] if "--" in args else list(args)
        accelerate = tuple(args[len(own) + 1 :])
        rest = super().parse_args(ctx, own)
        ctx.params["accelerate_args"] = accelerate
        return rest

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "[-- ACCELERATE_LAUNCH_ARGS...]"]


def typed(ctx: click.Context, *, without: frozenset[str] = frozenset()) -> Typed:
    """The command with the arguments and options that were typed.

    Args:
        without: names of parameters that are left out.
    """
    from leviathan_train.launch.command import Typed

    words = ["leviathan", *ctx.command_path.split()[1:]]
    params = [item for item in ctx.command.params if item.name not in without]
    for param in sorted(params, key=lambda item: isinstance(item, click.Option)):
        if ctx.get_parameter_source(str(param.name)) is ParameterSource.COMMANDLINE:
            words += _words(param, ctx.params[str(param.name)])
    return Typed(tuple(words), ctx.params.get("accelerate_args", ()))


def _words(param: click.Parameter, value: object) -> Iterator[str]:
    for one in value if isinstance(value, tuple) else (value,):
        if isinstance(param, click.Option):
            yield param.opts[-1]
        if not (isinstance(param, click.Option) and param.is_flag):
            text = f"{one:g}" if isinstance(one, float) else str(one)
            # `./-name` lost its `./` on the way, and would be taken for an option.
            yield f"./{text}" if isinstance(one, Path) and text.startswith("-") else text


def check_output(output: Path, suffixes: tuple[str, ...]) -> None:
    """Check that a file for `--output` has one of the endings and can be written there.

    Raises:
        UsageError: it has not, is a folder, or its folder is not there.
    """
    if output.suffix not in suffixes:
        wanted = f"{', '.join(suffixes[:-1])} or {suffixes[-1]}"
        raise UsageError(f"--output {output}: {wanted}, not {output.suffix or 'nothing'}.")
    if output.is_dir() or not output.parent.is_dir():
        wrong = "it is a folder" if output.is_dir() else f"there is no folder {output.parent}"
        raise UsageError(f"--output {output}: {wrong}.")


def find_run(
    target: str | None, *, quiet: bool = False, live: bool = False, told: bool = False
) -> Run:
    """The run meant by the RUN argument; one that was not named is named on the screen.

    Args:
        quiet: name it on stderr, since stdout is for data.
        told: what is shown next names it anyway.
        live: of several, the one that trains is meant; see `lookup.find`.
    """
    found = lookup.find(target, live=live)
    if found.path.is_dir() and not os.access(found.path, os.R_OK | os.X_OK):
        raise LeviathanError(f"{found.path} may not be read.", "Check who owns it, and its mode.")
    if target is None and not told:
        from leviathan_train.ui.text import plain

        name = lookup.shortest_name(found)
        where = f" ({found.path})" if found.path.is_absolute() and name == found.name else ""
        file = sys.stderr if quiet else sys.stdout
        print(f"Run: {plain(f'{name}{where}')}", file=file, flush=True)
    return found
