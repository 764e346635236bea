"""Questions to a person at a terminal. What an answer does is decided in `launch`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from leviathan_train.ui import text as render

if TYPE_CHECKING:
    from leviathan_train.checkpoints.store import Checkpoint
    from leviathan_train.config.changes import Change
    from leviathan_train.launch.activity import Activity
    from leviathan_train.launch.confirm import ResumeAnswer, RowsAnswer
    from leviathan_train.launch.resume import Offer
    from leviathan_train.run.folder import Run
    from leviathan_train.ui.progress import Screen


def ask(question: str, answers: Sequence[str]) -> str:
    """Ask until one of `answers` is typed, whole or by its first letters.

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


class TerminalDialog:
    """The `launch.confirm.Dialog` of the commands that train."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self.interactive = sys.stdin.isatty() and sys.stdout.isatty()

    def tell(self, line: str) -> None:
        self._screen.line(line)

    def show_offer(self, run: Run, offer: Offer) -> None:
        self._screen.offer(run, offer)

    def show_changes(self, found: Sequence[Change]) -> None:
        for line in render.changes(found):
            self._screen.line(line)

    def show_progress(self, now: Activity) -> None:
        self._screen.progress(now)

    def end_progress(self) -> None:
        self._screen.close()

    def ask_resume(self, checkpoint: Checkpoint, found: Sequence[Checkpoint]) -> ResumeAnswer:
        """Ask until the answer is sure: `delete` takes the step's number besides."""
        from leviathan_train.launch.confirm import ResumeAnswer

        while True:
            typed = ask(f"Resume from {checkpoint.name}?", tuple(ResumeAnswer))
            answer = ResumeAnswer(typed)
            if answer is not ResumeAnswer.DELETE:
                return answer
            self._screen.loss_of_all(found)
            number = click.prompt(
                f"Type the step number {checkpoint.step} to delete them, anything else to keep"
                " them",
                default="",
                show_default=False,
            )
            if number.strip() == str(checkpoint.step):
                return answer
            self.tell("Nothing was deleted.")

    def ask_fetch(self, what: str, place: str) -> bool:
        return confirm(f"Fetch {what} from {place}, and resume from it?")

    def ask_trust(self) -> bool:
        return confirm("Resume from it?")

    def ask_changes(self) -> bool:
        return confirm("Resume with these changes?")

    def ask_rows(self) -> RowsAnswer:
        from leviathan_train.launch.confirm import RowsAnswer

        answers = tuple(RowsAnswer)
        return RowsAnswer(ask("Keep the prepared rows, or rebuild them?", answers))
