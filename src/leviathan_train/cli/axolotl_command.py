"""`axolotl leviathan ...`: the same command line, reached through Axolotl's own."""

from __future__ import annotations

import click

from leviathan_train.cli import main


@click.command(
    short_help="Pause, resume, inspect and merge trainings.",
    add_help_option=False,
    # Every word is `leviathan`'s own, `--help` and what looks like an option of Axolotl too.
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def leviathan(words: tuple[str, ...]) -> None:
    """Run `leviathan` with these words.

    Axolotl's group would show its errors as tracebacks and drop its exit statuses, so it ends the
    process itself, as the command `leviathan` does.
    """
    main(list(words))
