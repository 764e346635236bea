"""Values as the user reads them: tables, pages and lines, the same piped and on a terminal."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
import time
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from leviathan_train.run.lookup import in_command
from leviathan_train.run.records import Ending, Phase, SeamWord
from leviathan_train.system import signs
from leviathan_train.system.units import clock
from leviathan_train.system.units import count as count
from leviathan_train.system.units import duration as duration
from leviathan_train.system.units import size as size

if TYPE_CHECKING:
    from rich.console import Console

    from leviathan_train.launch.activity import Activity
    from leviathan_train.launch.requests import Outcome


PHASES: dict[str, str] = {
    Phase.WAITING: "waiting for its window",
    Phase.STARTING: "importing Axolotl",
    Phase.DATA: "preparing the data",
    Phase.MODEL: "loading the model",
    Phase.FINAL: "writing the final adapter",
}
"""The phases that are told by other words than their own."""


_WHOLE_WORDS: Any = {"break_long_words": False, "break_on_hyphens": False}


def number(value: float | None, form: str = ".4g") -> str:
    """A number, or a dash where there is none."""
    return "-" if value is None else f"{value:{form}}"


def console() -> Console:
    """The console of a terminal that is drawn on; whatever is piped is printed instead."""
    from rich.console import Console

    return Console(highlight=False, emoji=False, markup=False)


_FOLDED = 12
"""Cells that a folded column must keep; with less, a spare column goes first."""


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], spare: Sequence[str] = ()) -> None:
    """Print aligned columns: plain text, so that it reads the same piped and on a terminal.

    Args:
        spare: the columns that a terminal goes without if it is too narrow, the first first.
    """
    told = ([plain(cell) for cell in row] for row in rows)
    columns = [list(column) for column in zip(headers, *told, strict=True)]
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for number_left_out in range(len(spare) + 1):
        shown = [column for column in columns if column[0] not in spare[:number_left_out]]
        if room is None or _width(shown) <= room:
            break
        least = _FOLDED if number_left_out < len(spare) else 1
        if folded := _folded_to(room, shown, least):
            shown = folded
            break
    else:  # a long word is broken, or all of it would be too wide all the same
        shown = _folded_to(room or 0, shown, _FOLDED, break_long_words=True) or columns
    aligned = [[cell.ljust(max(map(len, column))) for cell in column] for column in shown]
    header, *body = ("  ".join(row).rstrip() for row in zip(*aligned, strict=True))
    print("\n".join([header, "-" * _width(shown), *body]))


def _folded_to(
    room: int,
    columns: Sequence[Sequence[str]],
    least: int,
    *,
    break_long_words: bool = False,
) -> list[list[str]] | None:
    """The columns with the cells of the widest in several lines; None if that does not help, or
    leaves it less than `least` cells."""
    widest = max(range(len(columns)), key=lambda at: max(map(len, columns[at])))
    left = room - _width([column for at, column in enumerate(columns) if at != widest]) - 2
    if left < least:
        return None
    folded: list[list[str]] = [[] for _ in columns]
    for row in zip(*columns, strict=True):
        how = _WHOLE_WORDS | {"break_long_words": break_long_words}
        parts = textwrap.wrap(row[widest], max(left, 1), **how) or [""]
        for number, part in enumerate(parts):
            for at, cell in enumerate(row):
                folded[at].append(part if at == widest else "" if number else cell)
    return folded if _width(folded) <= room else None


def _width(columns: Sequence[Sequence[str]]) -> int:
    return sum(max(map(len, column)) + 2 for column in columns) - 2


def ago(at: float | None) -> str:
    """How long ago something was."""
    return "-" if at is None else f"{duration(time.time() - at)} ago"


def document(value: Any) -> None:
    """Print one JSON document, and nothing else."""
    from leviathan_train.ui.values import dumps

    print(dumps(value))


def plain_lines(text: str) -> str:
    """As `plain`, but the lines stay lines."""
    return "\n".join(map(plain, text.split("\n")))


def plain(text: object) -> str:
    """Text in one line that no terminal obeys: a name may hold newlines and escapes."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in str(text)
    )


def one_line(text: str) -> str:
    """A cause in one line of at most 200 characters, however many lines its author wrote."""
    told = plain(" ".join(text.split()))
    return told if len(told) <= 200 else told[:197] + "..."


def phase(now: Activity) -> str:
    """What a run does, in a few words."""
    word = PHASES.get(now.phase, now.phase)
    if now.asked:
        return f"pausing: {word}"
    return word if now.training or now.over else f"{word}, waiting to restart"


def last_start(now: Activity) -> str:
    """How long it took the last time from the start to the first step; empty if not known."""
    if now.start_seconds is None:
        return ""
    return f" (first step after {duration(now.start_seconds)} the last time)"


def fold(text: str, width: int) -> list[str]:
    """A message in lines of at most `width` cells, broken between words.

    A command stays in one line, which the terminal breaks: it can be copied whole. What comes
    before its two spaces, and what comes after four, stands in a line of its own. A path at the
    end stays with the words that say what it is.
    """
    before, _, last = text.rpartition(" ")
    width -= _wide(text)
    if len(text) <= width or ("/" in last and len(before) < width // 2):
        return [text]
    indent = text[: len(text) - len(text.lstrip())]
    room = max(20, width - len(indent))
    lines: list[str] = []
    for part in re.split(r" {3,}", text.strip()):
        before, gap, command = part.partition(":  ")
        if gap and len(part) > room:
            lines += [*textwrap.wrap(f"{before}:", room, **_WHOLE_WORDS), f"  {command}"]
        else:
            lines += textwrap.wrap(part, room, **_WHOLE_WORDS)
    return [indent + line for line in lines]


def _wide(text: str) -> int:
    """How many characters of a text take two cells of a terminal, as most signs do."""
    return sum(unicodedata.east_asian_width(char) in "WF" for char in text)


def folded(text: str, stream: TextIO) -> str:
    """A message as `stream` shows it: see `fold` on a terminal, unchanged elsewhere."""
    if not stream.isatty():
        return text
    width = shutil.get_terminal_size().columns
    return "\n".join(line for part in text.split("\n") for line in fold(part, width))


def hanging(text: str, indent: int) -> str:
    """A line as stdout shows it: on a terminal broken between words, later lines indented."""
    if not sys.stdout.isatty():
        return text
    width = max(shutil.get_terminal_size().columns - _wide(text), indent + 20)
    lines = textwrap.wrap(text, width, subsequent_indent=" " * indent, **_WHOLE_WORDS)
    return "\n".join(lines)


def steps(now: Activity) -> str:
    """Where a run is: 1500 of 3525 (42.6%)."""
    share = now.share
    return f"{now.step}" if share is None else f"{now.step} of {now.max_steps} ({share:.1%})"


def request(done: Outcome) -> None:
    """What `pause`, `save` or `stop` came to."""
    name, end = plain(done.run.name), done.end
    if done.host:
        print(f"{name} trains on {plain(done.host)}. The request is left there and will be obeyed.")
        print(f"See it with:  leviathan status {in_command(done.run)}")
    elif end is None or end.kind is Ending.PAUSED:
        print(f"Checkpoint saved to {plain(done.run.path / (done.checkpoint or ''))}")
        if end:
            print("Training stopped gracefully.")
    elif end.kind is Ending.FINISHED:
        print(f"{name} finished at step {end.step}.")
    elif end.kind is Ending.STOPPED:
        print(f"{name} stopped before its first step: there was nothing to save.")
    else:
        print(f"{name} {end.kind}: {one_line(end.why)}.")
        print(f"Last checkpoint: {plain(done.checkpoint or 'none')}")


def status(value: Any) -> None:
    """The page of `leviathan status`."""
    word = PHASES.get(value["phase"], value["phase"])
    elsewhere = f" ({value['path']})" if Path(value["path"]).is_absolute() else ""
    fields = [
        ("Run", plain(f"{value['run']}{elsewhere}")),
        ("Phase", f"pausing: {word}" if value["pausing"] else word),
    ]
    if value["end"]:
        fields.append(("Ended", f"{clock(value['end']['at'])}, {one_line(value['end']['why'])}"))
    step = f"{value['step']}"
    if value["max_steps"]:
        share = value["step"] / value["max_steps"]
        step += f" of {value['max_steps']} ({share:.1%})"
    fields.append(("Step", step))
    if value["eta_seconds"] is not None:
        done = clock(time.time() + value["eta_seconds"])
        fields.append(("ETA", f"{duration(value['eta_seconds'])} ({done})"))
    fields += [
        ("Epoch", number(value["epoch"], ".3f")),
        ("Loss", f"{number(value['loss'])}   eval {number(value['eval_loss'])}"),
        ("Learning rate", number(value["learning_rate"], ".3e")),
    ]
    if value["steps_per_second"]:
        fields.append(("Speed", f"{value['steps_per_second']:.3g} steps/s"))
    if value["training"] and value["gpu_memory_bytes"]:
        fields.append(("GPU memory", size(value["gpu_memory_bytes"])))
    if value["training"] and value["next_save_step"]:
        fields.append(("Next save", f"step {value['next_save_step']}"))
    saved = f"{value['last_checkpoint']}, {ago(value['last_checkpoint_at'])}"
    fields.append(("Last checkpoint", saved if value["last_checkpoint"] else "none"))
    if value["mirror"]:
        from leviathan_train.ui.mirror import mirror

        fields.append(("Mirror", mirror(value["mirror"])))
    if value["training"]:
        fields.append(("Process", f"{value['pid'] or '-'} on {value['host']}"))
    for label, told in fields:
        print(hanging(f"{label + ':':<16} {plain(told)}", 17))


def runs(value: Any) -> None:
    """The table of `leviathan runs`."""
    if not value["runs"]:
        print("No run yet. Start one with:  leviathan train CONFIG")
        return
    times = Counter(item["run"] for item in value["runs"])
    rows = [
        [
            plain(item["run"] if times[item["run"]] == 1 else item["path"]),
            PHASES.get(item["phase"], item["phase"]),
            f"{item['step']}/{item['max_steps'] or '?'}",
            str(item["checkpoints"]),
            size(item["bytes"]),
            ago(item["used"]),
            plain(Path(item["path"]).parent),
        ]
        for item in value["runs"]
    ]
    headers = ["Run", "Phase", "Step", "Checkpoints", "Size", "Used", "In"]
    table(headers, rows, spare=["Checkpoints", "Size", "In"])


def history(value: Any) -> None:
    """The table of `leviathan history`."""
    if not value["sessions"]:
        print(f"{plain(value['run'])} has no session yet.")
        return
    rows = [
        [
            clock(item["started"]),
            item["end"],
            _span(item["first_step"], item["last_step"], "-"),
            _span(number(item["first_loss"]), number(item["last_loss"]), " -> "),
            duration(item["hours"] * 3600 if item["hours"] else None),
            number(item["steps_per_second"], ".3g"),
            item["verdict"] or "-",
        ]
        for item in value["sessions"]
    ]
    headers = ["Started", "End", "Steps", "Loss", "Time", "Steps/s", "Resume"]
    table(headers, rows, spare=["Steps/s", "Time", "Loss"])
    for item in value["sessions"]:
        if item["end"] in {Ending.CRASHED, Ending.KILLED}:
            print(hanging(f"{plain(item['session'])} {item['end']}: {one_line(item['why'])}", 2))
        if item["verdict"] == SeamWord.BROKEN:
            cause = one_line(item["cause"])
            print(hanging(f"{plain(item['session'])} resume broken: {cause}", 2))


def _span(first: Any, last: Any, between: str) -> str:
    known = first not in (None, "-") and last not in (None, "-")
    return f"{first}{between}{last}" if known else "-"


def selftest(value: Any) -> None:
    """What `leviathan selftest` found, and what it means."""
    print(f"Largest difference after {value['steps']} steps, uninterrupted against resumed:")
    for key in ("adapter", "optimizer", "loss"):
        print(f"  {key:<10} {value[key]:.3g}")
    if value["identical"]:
        print(f"{signs.OK} Bit-identical: a pause changes nothing with this config here.")
    else:
        print(
            f"{signs.WARNING} Not bit-identical. Differences around 1e-5 come from the rounding of"
        )
        print("   the hardware or of 4-bit weights, as between two uninterrupted runs. Much larger")
        print("   ones mean that a state was not restored.")
