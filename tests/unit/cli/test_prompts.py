"""A question at a real terminal hears every signal, and every answer."""

from __future__ import annotations

import signal
import sys

import pexpect
import pytest

ASKED = """
import click, signal
from leviathan_train.cli.prompts import ask
signal.signal(signal.SIGTERM, signal.default_int_handler)
try:
    print("answer:", ask("Well?", ("yes", "no", "delete")))
except click.Abort:
    print("nothing was changed")
"""


def asked() -> pexpect.spawn[str]:
    child = pexpect.spawn(sys.executable, ["-c", ASKED], timeout=60, encoding="utf-8")
    child.expect_exact("Well? (yes/no/delete): ")
    return child


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_comes_with_the_question_is_heard(number: signal.Signals) -> None:
    for _ in range(15):  # with `input`, one in seven was not
        child = asked()
        child.kill(number)
        child.expect_exact("nothing was changed")
        child.close()


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("yes\n", "answer: yes"),
        ("  D \n", "answer: delete"),
        ("nonsense\nno\n", "Please type yes, no or delete.\r\nWell? (yes/no/delete): answer: no"),
        ("\n\ny\n", "answer: yes"),
        ("\x04", "nothing was changed"),
        ("\x03", "nothing was changed"),
        ("yex\x7fs\n", "answer: yes"),
    ],
)
def test_an_answer_is_taken_whole_or_by_its_first_letters(typed: str, told: str) -> None:
    child = asked()
    child.send(typed)
    child.expect_exact(told)
    child.close()
