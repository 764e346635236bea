"""Write docs/commands.md: the help of every command, as `--help` prints it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from leviathan_train.cli import cli

TARGET = Path(__file__).resolve().parents[1] / "docs" / "commands.md"
INTRODUCTION = """# Commands

What `--help` prints for each command. Made by `python scripts/make_commands.py`.
"""


def page() -> str:
    """The whole page."""
    context = click.Context(cli, info_name="leviathan", **cli.context_settings)
    return "\n".join([INTRODUCTION, *_sections(context)])


def _sections(context: click.Context) -> Iterator[str]:
    command = context.command
    text = command.get_help(context)
    if context.parent:  # the exit status is the same everywhere
        text = text.partition("\n  Exit status:")[0].rstrip()
    yield f"## {context.command_path.replace(' [RUN]', '')}\n\n```text\n{text}\n```\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner
            yield from _sections(click.Context(inner, parent=context, info_name=name))


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="utf-8")
