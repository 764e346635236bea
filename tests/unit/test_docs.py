"""What the documentation tells people to type exists."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

import click
import pytest

from leviathan_train.cli import cli
from leviathan_train.run.records import TERM_GRACE

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
STAND_INS = {"CONFIG": "configs/demo_cpu.yaml", "RUN": "demo_cpu", "COMMAND": "status"}


def commands(page: Path) -> list[str]:
    """Every `leviathan ...` of a page: lines of code, and code within a line."""
    text = page.read_text(encoding="utf-8")
    if page.name == "commands.md":
        return re.findall(r"^  Example:  (leviathan .*)$", text, re.M)
    fences = re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)
    lines = [line.strip() for fence in fences for line in fence.splitlines()]
    typed = [line.removeprefix("$ ").partition("  #")[0] for line in lines]
    inline = re.findall(r"`(leviathan [^`]*)`", re.sub(r"```.*?```", "", text, flags=re.S))
    parts = [part.strip() for line in [*typed, *inline] for part in re.split(r" && | \| ", line)]
    return [part for part in parts if part.startswith("leviathan ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_of_the_documentation_can_be_typed(page: Path) -> None:
    found = commands(page)
    assert found or page.stem not in {"README", "commands"}
    for line in found:
        words = [STAND_INS.get(word, word) for word in shlex.split(line)[1:]]
        context = click.Context(cli, info_name="leviathan", **cli.context_settings)
        command: click.Command = cli
        name: str | None = None
        while isinstance(command, click.Group) and words:
            name, inner, words = command.resolve_command(context, words)
            assert inner, line
            command = inner
        if words and "--help" not in words:  # without any it is spoken of
            command.make_context(name, words, parent=context)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_file_that_is_named_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (page.parent / target).exists(), target
    for name in re.findall(r"(?:\./)?\b((?:configs|scripts|bench|docs|src)/[\w./]+\w)", text):
        assert (ROOT / name).exists(), name


def test_the_page_of_commands_is_current() -> None:
    page = runpy.run_path(str(ROOT / "scripts/make_commands.py"))["page"]
    assert (ROOT / "docs/commands.md").read_text(encoding="utf-8") == page()


SPOT = ROOT / "docs/spot"


def test_the_tasks_for_machines_that_vanish_can_be_typed_and_start_again_after_a_pause() -> None:
    import yaml

    sky = yaml.safe_load((SPOT / "skypilot.yaml").read_text())
    assert sky["resources"]["job_recovery"]["recover_on_exit_codes"] == [75]
    job = yaml.safe_load((SPOT / "kubernetes.yaml").read_text())["spec"]
    (container,) = job["template"]["spec"]["containers"]
    rules = job["podFailurePolicy"]["rules"]
    ignored = [rule["onExitCodes"] for rule in rules if "onExitCodes" in rule]
    assert ignored == [{"containerName": container["name"], "operator": "In", "values": [75]}]
    assert job["template"]["spec"]["terminationGracePeriodSeconds"] > TERM_GRACE
    script = (SPOT / "rented.sh").read_text()
    lines = [
        *re.findall(r"leviathan train .*", f"{sky['run']}\n{script}"),
        shlex.join([*container["command"], *container["args"]]),
        shlex.join(container["lifecycle"]["preStop"]["exec"]["command"]),
    ]
    assert len(lines) == 4
    for line in lines:
        name, *words = shlex.split(line)[1:]
        command = cli.get_command(click.Context(cli), name)
        assert command
        with command.make_context(name, words, parent=click.Context(cli)) as context:
            assert name == "pause" or {"mirror", "choice"} <= set(context.params)
