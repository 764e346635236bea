"""`leviathan checkpoints ...`: what is saved, whether it is whole, and what may go."""

from __future__ import annotations

import csv
import io
import shutil
import sys
from pathlib import Path
from typing import Any

import click

from leviathan_train import checkpoints as nouns
from leviathan_train import render, report, reseal, retention
from leviathan_train.cli import EXIT_STATUS
from leviathan_train.cli.options import as_json, find_run, run_argument
from leviathan_train.errors import Declined, UsageError
from leviathan_train.files import write_text

_STEP = click.option("--step", metavar="STEP", help="Only the checkpoint of this step.")


@click.group(epilog=EXIT_STATUS)
def checkpoints() -> None:
    """List, verify, export and clean up a run's checkpoints."""


@checkpoints.command("list", epilog=EXIT_STATUS)
@run_argument
@as_json
def list_(run: str | None, json: bool) -> None:
    """List the checkpoints: size, date, losses, whether they are intact.

    Example:  leviathan checkpoints list leviathan_10pct_a4000
    """
    found = find_run(run, quiet=json)
    value = report.listing(found, nouns.scan(found))
    render.document(value) if json else render.listing(value)


def _show(run: str | None, choice: str, json: bool) -> None:
    found = find_run(run, quiet=json)
    scanned = nouns.scan(found)
    value = report.details(found, nouns.select(found, choice, scanned), scanned)
    render.document(value) if json else render.details(value, choice)


@checkpoints.command(epilog=EXIT_STATUS)
@run_argument
@as_json
def latest(run: str | None, json: bool) -> None:
    """Show the newest intact checkpoint.

    Example:  leviathan checkpoints latest
    """
    _show(run, "latest", json)


@checkpoints.command(epilog=EXIT_STATUS)
@run_argument
@as_json
def best(run: str | None, json: bool) -> None:
    """Show the best checkpoint, by the config's metric or by eval loss.

    Example:  leviathan checkpoints best
    """
    _show(run, "best", json)


@checkpoints.command(epilog=EXIT_STATUS)
@run_argument
@_STEP
@as_json
def show(run: str | None, step: str | None, json: bool) -> None:
    """Show one checkpoint, the newest intact one unless --step says another.

    Example:  leviathan checkpoints show --step 1000
    """
    _show(run, step or "latest", json)


@checkpoints.command(epilog=EXIT_STATUS)
@run_argument
@_STEP
@as_json
def verify(run: str | None, step: str | None, json: bool) -> int:
    """Read every file of every checkpoint and compare it with the seal.

    Exit status 1 if any is damaged.

    Example:  leviathan checkpoints verify --step 1000
    """
    found = find_run(run, quiet=json)
    if step is not None:
        known = {number for number, _ in nouns.folders(found)}
        number = step.removeprefix("checkpoint-")
        if not number.isdigit() or int(number) not in known:
            steps = ", ".join(map(str, sorted(known))) or "none"
            raise UsageError(f"{found.name} has no checkpoint of step {step}.", f"It has: {steps}.")
        scanned = nouns.scan(found, always_read=True, step=int(number))
    else:
        scanned = nouns.scan(found, always_read=True)
    value = report.verification(found, scanned)
    render.document(value) if json else render.verification(value)
    return 1 if value["damaged"] else 0


@checkpoints.command(epilog=EXIT_STATUS)
@run_argument
@click.option("--keep", type=int, metavar="N", help="Keep the newest N intact ones.")
@click.option("--keep-every", type=int, metavar="K", help="Keep multiples of K steps besides.")
@click.option("--no-keep-best", is_flag=True, help="Let the best one go, too.")
@click.option("--superseded", is_flag=True, help="Delete what was set aside instead.")
@click.option("--dry-run", is_flag=True, help="Show the plan, delete nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
def cleanup(
    run: str | None,
    keep: int | None,
    keep_every: int | None,
    no_keep_best: bool,
    superseded: bool,
    dry_run: bool,
    yes: bool,
    json: bool,
) -> int:
    """Delete old checkpoints: first the plan with its reasons, then the deed.

    Never deleted: the newest intact one, the best (unless --no-keep-best), one that a
    live training uses, and anything that is no checkpoint of this run.

    Example:  leviathan checkpoints cleanup --keep 2
    """
    found = find_run(run, quiet=json)
    if superseded:
        return _cleanup_superseded(found, dry_run=dry_run, yes=yes, json=json)
    if keep is None:
        raise UsageError("--keep N is missing.", "For example:  --keep 2")
    policy = retention.Policy(keep, keep_every, not no_keep_best)
    items = retention.plan(nouns.scan(found), policy, in_use=retention.in_use(found))
    value = report.cleanup(found, items)
    doomed = [item.checkpoint for item in items if not item.keep]
    if not json:
        render.plan(value)
    if doomed and not dry_run:
        _allow(f"Delete {len(doomed)} checkpoints?", yes=yes)
        for checkpoint in doomed:
            if not json:
                print(
                    f"  Deleting {checkpoint.name} ({render.size(checkpoint.bytes)})...", flush=True
                )
            retention.delete(found, checkpoint)
        retention.sweep(found)
    if json:
        render.document(value | {"dry_run": dry_run})
    elif not dry_run:
        print(f"\n✅ Cleanup complete. {len(items) - len(doomed)} checkpoints remaining.")
    return 0


def _cleanup_superseded(found: Any, *, dry_run: bool, yes: bool, json: bool) -> int:
    total = nouns.superseded_bytes(found)
    if not json:
        print(f"Set aside in {found.superseded}: {render.size(total)}")
    if found.superseded.is_dir() and not dry_run:
        _allow("Delete what was set aside?", yes=yes)
        shutil.rmtree(found.superseded)
    if json:
        render.document({"run": found.name, "superseded_bytes": total, "dry_run": dry_run})
    return 0


@checkpoints.command(epilog=EXIT_STATUS)
@run_argument
@click.option(
    "--output", type=click.Path(path_type=Path), metavar="FILE", help="FILE.json or FILE.csv."
)
@as_json
def export(run: str | None, output: Path | None, json: bool) -> None:
    """Export steps, losses, learning rates, sizes and times for analysis.

    Without --output the JSON goes to stdout. A CSV holds a line for each logged step of
    the newest checkpoint that has any.

    Example:  leviathan checkpoints export --output checkpoints.json
    """
    found = find_run(run, quiet=True)
    value = report.export(found, nouns.scan(found))
    if output is None:
        render.document(value)
        return
    if output.suffix not in {".json", ".csv"}:
        raise UsageError(f"--output {output}: .json or .csv, not {output.suffix or 'nothing'}.")
    if not output.parent.is_dir():
        raise UsageError(f"--output {output}: there is no folder {output.parent}.")
    write_text(output, _csv(value) if output.suffix == ".csv" else report.dumps(value) + "\n")
    if json:
        render.document({"run": found.name, "output": str(output)})
    else:
        print(f"Exported {len(value['checkpoints'])} checkpoints to {output}")


def _csv(value: dict[str, Any]) -> str:
    """A line for each logged step, and the checkpoint's columns where one was saved."""
    saved = {entry["step"]: entry for entry in value["checkpoints"]}
    lines: dict[int, dict[str, Any]] = {}
    for entry in value["checkpoints"]:
        for logged in entry["log_history"]:
            if isinstance(logged.get("step"), int):
                lines.setdefault(logged["step"], {}).update(logged)
    keys = ["step", "epoch", "loss", "eval_loss", "learning_rate", "grad_norm"]
    extra = ["bytes", "modified", "state", "path"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*keys, *extra])
    for step in sorted(lines.keys() | saved.keys()):
        logged = saved.get(step, {}) | lines.get(step, {}) | {"step": step}
        marks = [saved[step][key] if step in saved else None for key in extra]
        writer.writerow([*[logged.get(key) for key in keys], *marks])
    return text.getvalue()


@checkpoints.command("reseal", epilog=EXIT_STATUS)
@run_argument
@click.option("--step", required=True, metavar="STEP", help="The checkpoint that was edited.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def reseal_(run: str | None, step: str, yes: bool) -> None:
    """Seal again a checkpoint that was edited on purpose, after showing what changed.

    Example:  leviathan checkpoints reseal --step 1000
    """
    found = find_run(run)
    checkpoint = nouns.select(found, step, nouns.scan(found, always_read=True))
    changes = reseal.changes(checkpoint)
    if not changes:
        print(f"{checkpoint.name} matches its seal; nothing to do.")
        return
    for line in changes:
        print(f"  {line}")
    _allow(f"Trust {checkpoint.name} as it is now?", yes=yes)
    reseal.reseal(found, checkpoint)
    print(f"{checkpoint.name} is sealed as it is now.")


def _allow(question: str, *, yes: bool) -> None:
    """Ask before a deed that cannot be undone; without a terminal --yes is needed."""
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("There is no terminal to ask at, so nothing was changed.", "Add --yes.")
    from leviathan_train.cli.prompts import confirm

    if not confirm(question):
        raise Declined("Nothing was changed.")
