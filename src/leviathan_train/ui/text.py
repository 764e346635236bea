"""Values as the user reads them: tables, pages and lines, the same piped and on a terminal."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from leviathan_train.config.changes import Change


PHASES = {
    "waiting": "waiting for its window",
    "starting": "starting",
    "data": "preparing the data",
    "model": "loading the model",
    "training": "training",
    "evaluating": "evaluating",
    "saving": "saving",
    "final": "writing the final adapter",
}


def size(count: float | None) -> str:
    """Bytes as people read them: 487M, 1.4G."""
    if count is None:
        return "-"
    value = float(count)
    for unit in ("B", "K", "M", "G", "T"):
        if value < 1024 or unit == "T":
            break
        value /= 1024
    return f"{value:.0f}{unit}" if unit == "B" or value >= 10 else f"{value:.1f}{unit}"


def duration(seconds: float | None) -> str:
    """Seconds as people read them: 45s, 12m, 7h 05m, 3d 4h."""
    if seconds is None:
        return "-"
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02}m"
    return f"{whole // 86400}d {whole % 86400 // 3600}h"


def number(value: float | None, form: str = ".4g") -> str:
    """A number, or a dash where there is none."""
    return "-" if value is None else f"{value:{form}}"


def clock(at: float | None) -> str:
    """Seconds since the epoch as local date and time."""
    return "-" if at is None else datetime.fromtimestamp(at).strftime("%Y-%m-%d %H:%M:%S")


def console() -> Console:
    """A rich console that neither wraps nor colours what is piped."""
    from rich.console import Console

    live = sys.stdout.isatty()
    return Console(
        file=sys.stdout,
        highlight=False,
        soft_wrap=not live,
        no_color=bool(os.environ.get("NO_COLOR")) or not live,
        width=None if live else 10_000,
        emoji=False,
        markup=False,
    )


def table(
    headers: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int] = ()
) -> None:
    """Print aligned columns: plain text, so that it reads the same piped and on a terminal."""
    body = [list(row) for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(headers, *body, strict=True)]

    def join(cells: Sequence[str]) -> str:
        aligned = [
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(aligned).rstrip()

    lines = [join(headers), "-" * (sum(widths) + 2 * (len(widths) - 1)), *map(join, body)]
    print("\n".join(lines))


def ago(at: float | None, now: float | None = None) -> str:
    """How long ago something was."""
    if at is None:
        return "-"
    return f"{duration((time.time() if now is None else now) - at)} ago"


def document(value: Any) -> None:
    """Print one JSON document, and nothing else."""
    from leviathan_train.ui.values import dumps

    print(dumps(value))


def plain(text: object) -> str:
    """Text in one line that no terminal obeys: a name may hold newlines and escapes."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in str(text)
    )


def count(number: int, noun: str) -> str:
    """`1 checkpoint`, `2 checkpoints`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _state(item: Any) -> str:
    return plain(f"{item['state']}: {item['reason']}" if item["reason"] else item["state"])


def listing(value: Any) -> None:
    """The table of `checkpoints list`."""
    found = value["checkpoints"]
    if not found:
        print(f"{plain(value['run'])} has no checkpoint yet.")
    else:
        headers = ["Step", "Size", "Date Modified", "Epoch", "Loss", "Eval Loss", "State", ""]
        rows = [
            [
                str(item["step"]),
                size(item["bytes"]),
                clock(item["modified"]),
                number(item["epoch"], ".2f"),
                number(item["loss"]),
                number(item["eval_loss"]),
                _state(item),
                ", ".join(mark for mark in ("latest", "best") if item[mark]),
            ]
            for item in found
        ]
        table(headers, rows)
    if value["superseded_bytes"]:
        print(f"\nSet aside: {size(value['superseded_bytes'])}  (cleanup --superseded deletes it)")
    print(f"\nTotal size: {size(value['total_bytes'])}")


def details(value: Any, title: str) -> None:
    """The page of `checkpoints latest`, `best` and `show`."""
    heading = {"latest": "LATEST", "best": "BEST"}.get(title, "")
    rule = "=" * 48
    print(f"{rule}\n{f'{heading} CHECKPOINT'.strip()}\n{rule}")
    print(f"Location: {plain(value['path'])}\nStep: {value['step']}")
    print(f"State: {_state(value)}\n\nTraining State:")
    print(f"  Current Step: {value['step']}")
    if value["max_steps"]:
        print(f"  Total Steps: {value['max_steps']}")
    print(f"  Epoch: {number(value['epoch'], '.2f')}")
    print(f"  Best Loss: {number(value['best_loss'])}")
    print(f"  Last Loss: {number(value['loss'])}")
    at = value["eval_step"]
    late = f" (of step {at})" if at is not None and at != value["step"] else ""
    print(f"  Eval Loss: {number(value['eval_loss'])}{late}")
    print(f"  Learning Rate: {number(value['learning_rate'])}")
    if value["seconds_trained"] is not None:
        print(f"  Trained: {duration(value['seconds_trained'])}")
    print("\nFiles:")
    for file in value["files"]:
        print(f"  {plain(file['name'])} ({size(file['bytes'])})")


def verified(item: Any) -> None:
    """One line of `checkpoints verify`."""
    sign = "❌" if item["state"] == "damaged" else "✅"
    print(f"{sign} checkpoint-{item['step']} ({size(item['bytes'])}): {_state(item)}", flush=True)


def verification(value: Any) -> None:
    """The last line of `checkpoints verify`."""
    found = len(value["checkpoints"])
    if not found:
        print(f"{plain(value['run'])} has no checkpoint yet.")
    elif value["damaged"]:
        are = "is" if value["damaged"] == 1 else "are"
        print(f"\n{value['damaged']} of {count(found, 'checkpoint')} {are} damaged.")
    else:
        print(f"\n{count(found, 'checkpoint')} verified: nothing is damaged.")


def plan(value: Any) -> None:
    """The plan of `checkpoints cleanup`."""
    found = value["checkpoints"]
    doomed = [item for item in found if not item["keep"]]
    oldest = " oldest" if doomed and doomed == found[: len(doomed)] else ""
    print(f"Found {count(len(found), 'checkpoint')}. Will delete {len(doomed)}{oldest}.")
    for item in found:
        word = "keep  " if item["keep"] else "delete"
        reasons = plain(", ".join(item["reasons"]))
        print(f"  {word}  checkpoint-{item['step']} ({size(item['bytes'])}): {reasons}")


def request(done: Any) -> None:
    """What `pause`, `save` or `stop` came to."""
    name = done.run.name
    if done.host:
        print(f"{name} trains on {done.host}. The request is left there; it will be obeyed.")
        print(f"See it with:  leviathan status {name}")
    elif done.end is None:
        print(f"Checkpoint saved to {done.run.path / (done.checkpoint or '')}")
    elif done.end.kind == "paused":
        print(f"Checkpoint saved to {done.run.path / (done.checkpoint or '')}")
        print("Training stopped gracefully.")
    elif done.end.kind == "finished":
        print(f"{name} finished, at step {done.end.step}.")
    elif done.end.kind == "stopped":
        print(f"{name} stopped before its first step: there was nothing to save.")
    else:
        print(f"{name} ended: {done.end.why}. Last checkpoint: {done.checkpoint or 'none'}")


def status(value: Any) -> None:
    """The page of `leviathan status`."""
    phase = PHASES.get(value["phase"], value["phase"])
    print(f"Run:            {plain(value['run'])}")
    print(f"Phase:          {'pausing: ' if value['pausing'] else ''}{phase}")
    if value["end"]:
        print(f"Ended:          {clock(value['end']['at'])}, {value['end']['why']}")
    if value["max_steps"]:
        share = 100 * value["step"] / value["max_steps"]
        print(f"Step:           {value['step']} of {value['max_steps']} ({share:.1f}%)")
    else:
        print(f"Step:           {value['step']}")
    if value["eta_seconds"] is not None:
        done = clock(time.time() + value["eta_seconds"])
        print(f"ETA:            {duration(value['eta_seconds'])} ({done})")
    print(f"Epoch:          {number(value['epoch'], '.3f')}")
    print(f"Loss:           {number(value['loss'])}   eval {number(value['eval_loss'])}")
    print(f"Learning rate:  {number(value['learning_rate'], '.3e')}")
    if value["steps_per_second"]:
        print(f"Speed:          {value['steps_per_second']:.3g} steps/s")
    if value.get("gpu_memory_bytes"):
        print(f"GPU memory:     {size(value['gpu_memory_bytes'])}")
    if value["training"] and value.get("next_save_step"):
        print(f"Next save:      step {value['next_save_step']}")
    saved = f"{value['last_checkpoint']}, {ago(value['last_checkpoint_at'])}"
    print(f"Last seal:      {saved if value['last_checkpoint'] else 'none'}")
    if value["training"]:
        print(f"Process:        {value['pid']} on {value['host']}")


def runs(value: Any) -> None:
    """The table of `leviathan runs`."""
    if not value["runs"]:
        print("No run below work/training yet. Start one with:  leviathan train CONFIG")
        return
    rows = [
        [
            plain(item["run"]),
            PHASES.get(item["phase"], item["phase"]),
            f"{item['step']}/{item['max_steps'] or '?'}",
            str(item["checkpoints"]),
            size(item["bytes"]),
            ago(item["used"]),
        ]
        for item in value["runs"]
    ]
    table(["Run", "Phase", "Step", "Checkpoints", "Size", "Used"], rows)


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
    table(["Started", "End", "Steps", "Loss", "Time", "Steps/s", "Seam"], rows)
    for item in value["sessions"]:
        if item["verdict"] == "broken" or item["end"] in {"crashed", "killed"}:
            told = item["cause"] if item["verdict"] == "broken" else item["why"]
            print(f"{item['session']}: {told}")


def _span(first: Any, last: Any, between: str) -> str:
    known = first not in (None, "-") and last not in (None, "-")
    return f"{first}{between}{last}" if known else "-"


def changes(found: Sequence[Change]) -> list[str]:
    """The lines that tell what changed since the checkpoint, and what each change does."""
    from leviathan_train.config.redact import redact

    lines = []
    for change in found:
        old, new = (redact({change.key: value})[change.key] for value in (change.old, change.new))
        lines.append(
            f"   {change.key}: {_short(old)} -> {_short(new)}: {change.effect} ({change.why})"
        )
    return lines


def _short(value: Any) -> str:
    text = "not set" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def selftest(value: Any) -> None:
    """What `leviathan selftest` found, and what it means."""
    print(f"Largest difference after {value['steps']} steps, straight against paused and resumed:")
    for key in ("adapter", "optimizer", "loss"):
        print(f"  {key:<10} {value[key]:.3g}")
    if value["identical"]:
        print("✅ Bit-identical: a pause leaves no trace with this config on this machine.")
    else:
        print("⚠️  Not bit-identical. Differences about 1e-5 are the rounding of the hardware or of")
        print("   4-bit weights, as between two straight runs; much larger ones mean that a state")
        print("   was not restored.")
