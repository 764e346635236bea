"""The command line: each command builds inputs, calls one function, renders its answer."""

from __future__ import annotations

import errno
import importlib
import io
import os
import sys
import traceback
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import click

from leviathan_train import __version__
from leviathan_train.errors import FAILED, STOPPED, USAGE, LeviathanError, Stopped
from leviathan_train.system import mounts, signs

EXIT_STATUS = """
\b
Exit status:
  0    done (also: already finished, or paused at the
       very last step)
  1    failed
  2    usage error: bad option, bad config, or no such run
  75   paused, killed or out of disk space, with an intact
       checkpoint to resume from
  130  stopped with nothing to resume from, or `no` at the
       prompt
"""

COMMANDS = (
    "train",
    "check",
    "selftest",
    "pause",
    "save",
    "stop",
    "status",
    "runs",
    "checkpoints",
    "history",
    "logs",
    "plot",
    "merge",
)


OF_CHECKPOINTS = (
    *("list", "latest", "best", "show", "verify", "cleanup", "export"),
    *("reseal", "push", "pull"),
)
"""Commands of `leviathan checkpoints` that people look for one level higher."""


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is looked up.

    The help of each ends with the exit statuses.

    Args:
        modules: of each command, in the order of the help; its name there is that of the
            command.
        elsewhere: what is meant by words that are no commands here.
    """

    def __init__(
        self,
        *args: Any,
        modules: Mapping[str, str],
        elsewhere: Mapping[str, str] = MappingProxyType({}),
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._modules = modules
        self._elsewhere = elsewhere

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._modules:
            return None
        module = importlib.import_module(self._modules[cmd_name])
        command: click.Command = getattr(module, cmd_name)
        command.epilog = EXIT_STATUS
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            from leviathan_train.config.load import nearest

            typed = args[0]
            close = self._elsewhere.get(typed) or nearest(typed, self._modules)
            meant = f"Did you mean: {ctx.command_path} {close}" if close else ""
            raise click.UsageError(f"No such command {typed!r}. {meant}".strip(), ctx) from None


@click.group(
    cls=LazyGroup,
    modules={name: f"{__name__}.{name}" for name in COMMANDS},
    elsewhere={name: f"checkpoints {name}" for name in OF_CHECKPOINTS} | {"resume": "train CONFIG"},
    epilog=EXIT_STATUS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="leviathan")
@click.option("--debug", is_flag=True, help="Show a traceback with an error.")
def cli(debug: bool) -> None:
    """Fine-tune by night, pause by day, lose nothing.

    A thin layer over `accelerate launch -m axolotl.cli.train` that makes a run safe to
    stop, resume, inspect and prune at any time.

    \b
    leviathan train CONFIG           start, or resume
    Ctrl+C, or leviathan pause       save and stop
    leviathan checkpoints list       what is saved
    leviathan merge                  a model to serve

    RUN is a run's name, its folder, or its config. Left out, it is the run used last in this
    folder; for status, pause, save, stop and history, the one that trains, wherever it is.
    """


def _of_system(error: OSError | UnicodeEncodeError) -> tuple[str, str, int]:
    """What the system refused, what to type next, and the exit status."""
    if isinstance(error, UnicodeEncodeError):
        what = error.object[error.start : error.end]
        told = f"The encoding {error.encoding} cannot write {what!a}."
        if "utf" in error.encoding:
            return told, "Take it out of the name, or of the config.", USAGE
        return told, "Choose a locale that can, for example:  export LC_ALL=C.UTF-8", USAGE
    where = f"{error.filename}: " if error.filename else ""
    if error.errno == errno.ENAMETOOLONG:
        return f"{where}{error.strerror}.", "Choose a shorter name.", USAGE
    return f"{where}{error.strerror or error}", "Run it again with --debug for more.", FAILED


def main(args: list[str] | None = None) -> None:
    """The one error boundary: known errors become a line and a hint, others a report."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # closed, as by `<&-`
            device = io.FileIO(os.devnull, "r" if name == "stdin" else "w")
            setattr(sys, name, io.TextIOWrapper(device))
    for stream in (sys.stdout, sys.stderr):
        signs.adapt(stream)
    args = sys.argv[1:] if args is None else args
    own = args[: args.index("--")] if "--" in args else args
    debug = "--debug" in own
    args = [arg for arg in own if arg != "--debug"] + args[len(own) :]
    status: Any
    try:
        status = cli.main(args, prog_name="leviathan", standalone_mode=False)
    except Stopped as error:
        status = error.exit_code
        for told in filter(None, (error.message, error.hint)):
            click.echo(_folded(told), err=True)
    except LeviathanError as error:
        status = error.exit_code
        _report(error.message, error.hint, debug)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "", err=True)
        status = USAGE
    except click.ClickException as error:
        context = getattr(error, "ctx", None)  # only a usage error has one
        named = next((word for word in own if word in COMMANDS), "")  # an option lacks its value
        where = context.command_path if context else f"leviathan {named}".strip()
        _report(error.format_message(), f"See:  {where} --help", debug)
        status = USAGE
    except click.Abort:  # at a question
        click.echo("\nNothing was changed.", err=True)
        status = STOPPED
    except KeyboardInterrupt:
        click.echo("\nInterrupted.", err=True)
        status = STOPPED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = FAILED
    except (OSError, UnicodeEncodeError) as error:
        message, hint, status = _of_system(error)
        _report(message, hint, debug)
    except Exception as error:
        _report(f"This is a fault of leviathan itself: {error!r}", "Please report it.", True)
        status = FAILED
    for mount in sorted(mounts.left_out):
        told = f"{mount} does not answer: what lies on it was left out."
        click.echo(_folded(told), err=True)
    sys.exit(status if isinstance(status, int) else 0)


def _report(message: str, hint: str | None, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    line = _folded(f"Error: {message}")
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    click.echo(line if plain else click.style(line, fg="red"), err=True)
    if hint:
        click.echo(_folded(hint), err=True)


def _folded(text: str) -> str:
    from leviathan_train.ui.text import folded, plain_lines  # not needed where all is well

    return folded(plain_lines(text), sys.stderr)
