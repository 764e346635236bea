"""Questions to a person at a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import click

from leviathan_train.checkpoints.store import Checkpoint, folders
from leviathan_train.errors import Declined, LeviathanError
from leviathan_train.launch import resume
from leviathan_train.launch.resume import Offer
from leviathan_train.run.folder import Run
from leviathan_train.ui import text as render
from leviathan_train.ui.progress import Screen


def ask(question: str, answers: Sequence[str]) -> str:
    """Ask until one of `answers` is typed, whole or by its first letter.

    Raises:
        click.Abort: Ctrl+C or the end of input.
    """
    choices = "/".join(answers)
    while True:
        typed: str = click.prompt(
            f"{question} ({choices})", type=str, default="", show_default=False
        )
        typed = typed.strip().lower()
        found = [answer for answer in answers if typed and answer.startswith(typed)]
        if len(found) == 1:
            return found[0]
        click.echo(f"Please type {', '.join(answers[:-1])} or {answers[-1]}.")


def confirm(question: str) -> bool:
    """Ask a yes/no question."""
    return ask(question, ("yes", "no")) == "yes"


def confirm_resume(run: Run, offer: Offer, found: Sequence[Checkpoint], screen: Screen) -> Offer:
    """Ask whether to resume, and do what the answer says.

    Returns:
        The offer to start with; without a checkpoint, if all were deleted.

    Raises:
        Declined: the answer was no, and nothing was changed.
    """
    checkpoint = offer.checkpoint
    assert checkpoint is not None
    while True:
        answer = ask(f"Resume from {checkpoint.name}?", ("yes", "no", "delete"))
        if answer == "yes":
            if [step for step, _ in folders(run)] != [item.step for item in found]:
                raise LeviathanError(
                    f"{run.name} has changed since it was shown.", "Type the same command again."
                )
            return offer
        if answer == "no":
            raise Declined(
                "Nothing was changed.",
                f"Start over, setting the checkpoints aside:  --resume never    Another run:"
                f"  --set output_dir={run.path}_2",
            )
        screen.loss_of_all(found)
        typed = click.prompt(
            f"Type the step number {checkpoint.step} to delete them, anything else to keep them",
            default="",
            show_default=False,
        )
        if typed.strip() == str(checkpoint.step):
            resume.delete_all(run, found)
            deleted = render.count(len(found), "checkpoint")
            screen.line(f"Deleted {deleted}. Training starts from the base model.")
            return replace(offer, checkpoint=None, newer=(), damaged=(), ask=False)
        screen.line("Nothing was deleted.")
