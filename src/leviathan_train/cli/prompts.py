"""Questions to a person at a terminal. What an answer does is decided in `launch`."""

from __future__ import annotations

import select
import signal
import socket
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from leviathan_train.ui.progress import Screen

if TYPE_CHECKING:
    from leviathan_train.checkpoints.store import Checkpoint
    from leviathan_train.launch.confirm import ResumeAnswer, RowsAnswer


def ask(question: str, answers: Sequence[str]) -> str:
    """Ask until one of `answers` is typed, whole or by its first letters.

    Raises:
        click.Abort: Ctrl+C or the end of input.
    """
    choices = "/".join(answers)
    while True:
        typed = _typed(f"{question} ({choices})").lower()
        found = [answer for answer in answers if typed and answer.startswith(typed)]
        if len(found) == 1:
            return found[0]
        click.echo(f"Please type {', '.join(answers[:-1])} or {answers[-1]}.")


def _typed(question: str) -> str:
    """What is typed at a question, without spaces around it.

    `input` would not hear a signal that comes in the moment before it begins to wait, and so
    wait on for a line that nobody types.

    Raises:
        click.Abort: Ctrl+C, SIGTERM, or the end of input.
    """
    if not sys.stdin.isatty():
        return str(click.prompt(question, default="", show_default=False)).strip()
    wakes, woken = socket.socketpair()
    with wakes, woken:
        woken.setblocking(False)
        before = signal.set_wakeup_fd(woken.fileno(), warn_on_full_buffer=False)
        try:
            click.echo(f"{question}: ", nl=False)
            while sys.stdin not in select.select([sys.stdin, wakes], [], [])[0]:
                wakes.recv(64)  # the signal's handler has its turn
            line = sys.stdin.readline()
        except KeyboardInterrupt:
            raise click.Abort from None
        finally:
            signal.set_wakeup_fd(before)
    if not line:
        raise click.Abort
    return line.strip()


def confirm(question: str) -> bool:
    """Ask a yes/no question."""
    return ask(question, ("yes", "no")) == "yes"


class TerminalDialog(Screen):
    """The `launch.confirm.Dialog` of the commands that train: a screen that can ask."""

    tell = Screen.line
    show_offer = Screen.offer
    show_progress = Screen.progress
    end_progress = Screen.close

    def __init__(self, *, quiet: bool = False) -> None:
        super().__init__(quiet=quiet)
        self.interactive = sys.stdin.isatty() and sys.stdout.isatty()

    def ask_resume(self, checkpoint: Checkpoint, found: Sequence[Checkpoint]) -> ResumeAnswer:
        """Ask until the answer is sure: `delete` takes the step's number besides."""
        from leviathan_train.launch.confirm import ResumeAnswer

        while True:
            typed = ask(f"Resume from {checkpoint.name}?", tuple(ResumeAnswer))
            answer = ResumeAnswer(typed)
            if answer is not ResumeAnswer.DELETE:
                return answer
            self.loss_of_all(found)
            number = _typed(
                f"Type the step number {checkpoint.step} to delete them, anything else to keep them"
            )
            if number == str(checkpoint.step):
                return answer
            self.tell("Nothing was deleted.")

    def confirm(self, question: str) -> bool:
        return confirm(question)

    def ask_rows(self) -> RowsAnswer:
        from leviathan_train.launch.confirm import RowsAnswer

        answers = tuple(RowsAnswer)
        return RowsAnswer(ask("Keep the prepared rows, or rebuild them?", answers))
