"""What the documentation tells people to type exists."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

import click
import pytest
import yaml

from leviathan_train.cli import cli
from leviathan_train.run.records import TERM_GRACE
from leviathan_train.system.units import size
from support import guide

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
ROOMS = [path.parent.name for path in (ROOT / "src/leviathan_train").glob("*/__init__.py")]
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
    for name in re.findall(r"(?:\./)?\b((?:configs|scripts|bench|docs|src|tests)/[\w./]+\w)", text):
        assert (ROOT / name).exists(), name
    source = ROOT / "src/leviathan_train"
    for name in re.findall(rf"`((?:{'|'.join(ROOMS)})/[\w/]+\.py)`", text):
        assert (source / name).exists(), name


def test_the_page_of_commands_is_current() -> None:
    page = runpy.run_path(str(ROOT / "scripts/make_commands.py"))["page"]
    assert (ROOT / "docs/commands.md").read_text(encoding="utf-8") == page()


SPOT = ROOT / "docs/spot"


def test_the_tasks_for_machines_that_vanish_can_be_typed_and_start_again_after_a_pause() -> None:
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


def test_each_promise_names_the_test_that_proves_it() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.partition("| Promise | Plain Axolotl | leviathan | Test |\n")[2].partition("\n\n")[
        0
    ]
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()[1:]]
    assert len(rows) >= 10
    for promise, plain, _, test in rows:
        assert re.match(r"0\.(19|20|21)\b", plain), promise
        path = ROOT / test.strip("`")
        assert path.name.startswith("test_") and "\ndef test_" in path.read_text("utf-8"), promise


def test_the_readme_fits_on_two_screens() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    assert all(len(line) <= 105 for line in lines if not line.startswith(("|", "!")))


HEADINGS = """
# 🔄 LEVIATHAN TRAINING: CHECKPOINTING & RESUME GUIDE
## ✅ **Key Features**
## 💾 **What's in a Checkpoint**
## 🎮 **How to Pause Training**
### Method 1: Graceful Stop (RECOMMENDED)
### Method 2: Emergency Stop
### Method 3: Scheduled Pause
## ▶️ **How to Resume Training**
### Automatic Resume (Easiest)
### Manual Resume (Advanced)
## 📊 **Checkpoint Management**
### List Your Checkpoints
### View Latest Checkpoint Details
### Clean Up Old Checkpoints
## 💡 **Common Scenarios**
### Scenario 1: Overnight Training, Need GPU During Day
### Scenario 2: Power Outage / Crash
### Scenario 3: Multi-Day Training with Daily Stops
### Scenario 4: Switching Between Test and Full Training
## 🛠️ **Advanced Checkpoint Operations**
### Export Checkpoint Metadata
### Convert Checkpoint to Merged Model
### Resume with Different Hyperparameters
## 📈 **Monitoring Resume Success**
### Check 1: Loss Continuity
### Check 2: Learning Rate
### Check 3: GPU Memory
## 🆘 **Troubleshooting Resume Issues**
### Problem: "Checkpoint not found"
### Problem: "CUDA out of memory" after resume
### Problem: Loss jumps after resume
### Problem: "Mismatched checkpoint"
## ✅ **Checkpoint Best Practices**
### For A4000 24-36 Hour Test Run:
### For A4000 10-15 Day Full Run:
### Disk Space Management:
## 🎯 **Quick Reference**
## 💪 **Why This Is Perfect for A4000**
## 🌊 **Summary**
"""


def test_the_guide_keeps_the_headings_by_which_its_readers_know_it() -> None:
    text = re.sub(r"^```.*?^```", "", guide.PAGE.read_text(encoding="utf-8"), flags=re.M | re.S)
    assert re.findall(r"^#+ .*", text, re.M) == HEADINGS.split("\n")[1:-1]


def test_the_guides_settings_are_those_of_the_configs_that_it_names() -> None:
    blocks = re.findall(
        r"```yaml\n(.*?)```\n\nThese are the settings of `(.*?)`",
        guide.PAGE.read_text(encoding="utf-8"),
        re.S,
    )
    assert len(blocks) == 2
    for block, name in blocks:
        shipped = yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))
        assert yaml.safe_load(block).items() <= shipped.items(), name


def test_the_guides_estimate_for_the_card_is_the_sum_that_it_shows() -> None:
    text = guide.PAGE.read_text(encoding="utf-8")
    config = yaml.safe_load((ROOT / "configs/leviathan_full_a4000.yaml").read_text("utf-8"))
    assert (config["base_model"], config["lora_target_linear"]) == ("Qwen/Qwen3-8B", True)
    wide, mlp, keys, layers, rank = 4096, 12288, 1024, 36, config["lora_r"]
    shapes = [(wide, wide), (wide, keys), (wide, keys), (wide, wide)] + 3 * [(wide, mlp)]
    each = sum(rank * (a + b) for a, b in shapes)
    weights = layers * each
    adapter, optimizer = 4 * weights, 2 * weights * (1 + 4 / 256)
    row = f"| {size(adapter)} | {size(optimizer)} | {(adapter + optimizer) / 2**30:.1f}G |"
    assert row in text and f"{each:,}" in text and f"{weights:,}" in text
    for name, number in (("10pct", 3), ("full", 5)):
        kept = yaml.safe_load((ROOT / f"configs/leviathan_{name}_a4000.yaml").read_text("utf-8"))
        assert kept["save_total_limit"] == number
        assert f"{number + 2} \N{MULTIPLICATION SIGN} 1.0G = {number + 2}G" in text
