"""What a command keeps of what was typed, and what it hands to the launcher."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from leviathan_train.cli import cli
from leviathan_train.cli.options import typed
from leviathan_train.cli.train import _ONLY_ONCE, train


def context(*words: str) -> click.Context:
    parent = click.Context(cli, info_name="leviathan", **cli.context_settings)
    return train.make_context("train", list(words), parent=parent)


@pytest.mark.parametrize(
    ("words", "again"),
    [
        (["c.yaml"], "leviathan train c.yaml"),
        (["c.yaml", "--resume", "40", "--yes"], "leviathan train c.yaml --yes"),
        (
            ["--window=20:00-08:00", "c.yaml", "--set", "a=1", "--set", "b=x y", "--grace", "9"],
            "leviathan train c.yaml --grace 9 --set a=1 --set 'b=x y' --window 20:00-08:00",
        ),
        (
            ["c d.yaml", "--for", "8h", "--", "--num_processes", "2"],
            "leviathan train 'c d.yaml' --for 8h -- --num_processes 2",
        ),
    ],
)
def test_the_command_to_type_next_is_what_was_typed(words: list[str], again: str) -> None:
    assert typed(context(*words), without=_ONLY_ONCE).again() == again


def test_only_what_follows_the_dashes_goes_to_the_launcher() -> None:
    assert context("c.yaml", "--", "--a", "--", "b").params["accelerate_args"] == ("--a", "--", "b")
    assert context("c.yaml").params["accelerate_args"] == ()
    with pytest.raises(click.UsageError, match="unexpected extra argument"):
        context("c.yaml", "d.yaml", "--", "--a")


@pytest.mark.parametrize("command", ["train", "pause", "stop"])
@pytest.mark.parametrize("seconds", ["nan", "inf", "-1", "soon"])
def test_a_grace_that_would_never_end_is_wrong_use(command: str, seconds: str) -> None:
    result = CliRunner().invoke(cli, [command, "c.yaml", "--grace", seconds])
    assert result.exit_code == 2 and "--grace" in result.output, result.output
