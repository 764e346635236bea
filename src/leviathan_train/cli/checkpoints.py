"""`leviathan checkpoints ...`: what is saved, whether it is whole, and what may go."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leviathan_train.checkpoints import store as nouns
from leviathan_train.cli import EXIT_STATUS
from leviathan_train.cli.options import as_json, find_run, run_argument
from leviathan_train.errors import DONE, FAILED, Declined, UsageError
from leviathan_train.system.files import folder_bytes
from leviathan_train.ui import text as render
from leviathan_train.ui import values as report

if TYPE_CHECKING:
    from leviathan_train.run.folder import Run

_STEP = click.option("--step", metavar="STEP", help="Only the checkpoint of this step.")


class InOrder(click.Group):
    """A group that lists its commands as they stand in the file."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=InOrder, epilog=EXIT_STATUS)
def checkpoints() -> None:
    """List, verify, export and clean up a run's checkpoints."""


def _scan(run: Run) -> list[nouns.Checkpoint]:
    """As `scan`; at a terminal, where much must be read first, it says so."""
    scanned, began = [], time.monotonic()
    for checkpoint in nouns.scanning(run):
        if sys.stderr.isatty() and began and time.monotonic() - began > 1:
            print("Reading what was not verified yet...", file=sys.stderr)
            began = 0.0
        scanned.append(checkpoint)
    return scanned


@checkpoints.command(
    "list", short_help="List them: size, date, losses, whether intact.", epilog=EXIT_STATUS
)
@run_argument
@as_json
def list_(run: str | None, json: bool) -> None:
    """List the checkpoints: size, date, losses, whether they are intact.

    Example:  leviathan checkpoints list leviathan_10pct_a4000
    """
    found = find_run(run, quiet=json)
    value = report.listing(found, _scan(found))
    render.document(value) if json else render.listing(value)


def _show(run: str | None, choice: str, json: bool) -> None:
    found = find_run(run, quiet=json)
    scanned = _scan(found)
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


@checkpoints.command(short_help="Show the best one.", epilog=EXIT_STATUS)
@run_argument
@as_json
def best(run: str | None, json: bool) -> None:
    """Show the best checkpoint, by the config's metric or by eval loss.

    Example:  leviathan checkpoints best
    """
    _show(run, "best", json)


@checkpoints.command(short_help="Show one checkpoint.", epilog=EXIT_STATUS)
@run_argument
@_STEP
@as_json
def show(run: str | None, step: str | None, json: bool) -> None:
    """Show one checkpoint, the newest intact one unless --step says another.

    Example:  leviathan checkpoints show --step 1000
    """
    _show(run, "latest" if step is None else str(_number(step)), json)


@checkpoints.command(short_help="Read every file again and compare it.", epilog=EXIT_STATUS)
@run_argument
@_STEP
@as_json
def verify(run: str | None, step: str | None, json: bool) -> int:
    """Read every file of every checkpoint and compare it with the seal.

    Exit status 1 if any is damaged.

    Example:  leviathan checkpoints verify --step 1000
    """
    found = find_run(run, quiet=json)
    number = None if step is None else _number(step)
    known = [known for known, _ in nouns.folders(found)]
    if number is not None and number not in known:
        raise nouns.no_such_step(found, number, known)
    scanned = []
    for checkpoint in nouns.scanning(found, always_read=True, step=number):
        scanned.append(checkpoint)
        if not json:
            render.verified(report.verified(checkpoint))
    value = report.verification(found, scanned)
    render.document(value) if json else render.verification(value)
    return FAILED if value["damaged"] else DONE


@checkpoints.command(
    short_help="Delete old ones: first the plan, then the deed.", epilog=EXIT_STATUS
)
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
    from leviathan_train.checkpoints import retention

    if superseded:
        if keep is not None or keep_every is not None or no_keep_best:
            raise UsageError("--superseded deletes all that was set aside: it takes no --keep.")
        return _cleanup_superseded(find_run(run, quiet=json), dry_run=dry_run, yes=yes, json=json)
    if keep is None:
        raise UsageError("--keep N is missing.", "For example:  --keep 2")
    policy = retention.Policy(keep, keep_every, not no_keep_best)
    found = find_run(run, quiet=json)
    scanned = _scan(found)
    items = retention.plan(scanned, policy, in_use=retention.in_use(found, scanned))
    value = report.cleanup(found, items)
    if not json:
        render.plan(value)
    doomed = [item.checkpoint for item in items if not item.keep]
    if doomed and not dry_run:
        _allow(f"Delete {render.count(len(doomed), 'checkpoint')}?", yes=yes)

    def tell(checkpoint: nouns.Checkpoint) -> None:
        if not json:
            size = render.size(checkpoint.bytes)
            print(f"  Deleting {checkpoint.name} ({size})...", flush=True)

    deleted = [] if dry_run else retention.carry_out(found, items, tell)
    if json:
        render.document(value | {"deleted": deleted, "dry_run": dry_run})
    elif not dry_run:
        for checkpoint in doomed:
            if checkpoint.step not in deleted:
                print(f"  Kept {checkpoint.name} after all: the training uses it.")
        left = render.count(len(items) - len(deleted), "checkpoint")
        print(f"\n✅ Cleanup complete. {left} remaining.")
    return DONE


def _cleanup_superseded(run: Run, *, dry_run: bool, yes: bool, json: bool) -> int:
    from leviathan_train.checkpoints import retention

    total = folder_bytes(run.superseded)
    if not json:
        print(f"Set aside in {render.plain(run.superseded)}: {render.size(total)}")
    if run.superseded.is_dir() and not dry_run:
        _allow("Delete what was set aside?", yes=yes)
        retention.clear_superseded(run)
    left = folder_bytes(run.superseded)
    if json:
        gone = {"superseded_bytes": left, "deleted_bytes": total - left}
        render.document({"run": run.name} | gone | {"dry_run": dry_run})
    elif not dry_run:
        print(f"\n✅ Cleanup complete. {render.size(left)} remaining.")
    return DONE


@checkpoints.command(short_help="Export the numbers for analysis.", epilog=EXIT_STATUS)
@run_argument
@click.option(
    "--output", type=click.Path(path_type=Path), metavar="FILE", help="FILE.json or FILE.csv."
)
@as_json
def export(run: str | None, output: Path | None, json: bool) -> None:
    """Export steps, losses, learning rates, sizes and times for analysis.

    Without --output the JSON goes to stdout. A CSV holds a line for each step that was
    logged or saved.

    Example:  leviathan checkpoints export --output checkpoints.json
    """
    from leviathan_train.system.files import write_text

    if output is not None:
        if output.suffix not in {".json", ".csv"}:
            raise UsageError(f"--output {output}: .json or .csv, not {output.suffix or 'nothing'}.")
        if output.is_dir() or not output.parent.is_dir():
            wrong = "it is a folder" if output.is_dir() else f"there is no folder {output.parent}"
            raise UsageError(f"--output {output}: {wrong}.")
    found = find_run(run, quiet=True)
    value = report.export(found, _scan(found))
    if output is None:
        render.document(value)
        return
    write_text(output, _csv(value) if output.suffix == ".csv" else report.dumps(value) + "\n")
    if json:
        render.document({"run": found.name, "output": str(output)})
    else:
        told = render.count(len(value["checkpoints"]), "checkpoint")
        print(f"Exported {told} to {render.plain(output)}")


def _csv(value: dict[str, Any]) -> str:
    """A line for each logged step, and the checkpoint's columns where one was saved."""
    import csv
    import io

    saved = {entry["step"]: entry for entry in value["checkpoints"]}
    lines: dict[int, dict[str, Any]] = {}
    for logged in value["log_history"]:
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


@checkpoints.command(
    "reseal", short_help="Seal again one that was edited on purpose.", epilog=EXIT_STATUS
)
@run_argument
@click.option("--step", required=True, metavar="STEP", help="The checkpoint that was edited.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def reseal_(run: str | None, step: str, yes: bool) -> None:
    """Seal again a checkpoint that was edited on purpose, after showing what changed.

    Example:  leviathan checkpoints reseal --step 1000
    """
    from leviathan_train.checkpoints import reseal

    number = _number(step)
    found = find_run(run)
    known = nouns.scan(found, always_read=True, step=number)
    if not known:
        raise nouns.no_such_step(found, number, [step for step, _ in nouns.folders(found)])
    checkpoint = known[0]
    changes = reseal.changes(checkpoint)
    if not changes:
        print(f"{checkpoint.name} matches its seal; nothing to do.")
        return
    for line in changes:
        print(f"  {render.plain(line)}")
    _allow(f"Trust {checkpoint.name} as it is now?", yes=yes)
    reseal.reseal(found, checkpoint)
    print(f"{checkpoint.name} is sealed as it is now.")


def _number(step: str) -> int:
    number = nouns.step_of(step)
    if number is None:
        raise UsageError(f"--step {step}: not the number of a step.", "For example:  --step 1000")
    return number


def _allow(question: str, *, yes: bool) -> None:
    """Ask before a deed that cannot be undone; without a terminal --yes is needed."""
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("There is no terminal to ask at, so nothing was changed.", "Add --yes.")
    from leviathan_train.cli.prompts import confirm

    if not confirm(question):
        raise Declined("Nothing was changed.")
