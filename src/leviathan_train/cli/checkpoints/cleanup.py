"""`leviathan checkpoints cleanup`: delete old checkpoints, after a plan with reasons."""

from __future__ import annotations

import click

from leviathan_train.checkpoints import retention
from leviathan_train.checkpoints.store import Checkpoint, Read
from leviathan_train.cli.checkpoints import allow, scan
from leviathan_train.cli.options import Count, as_json, find_run, run_argument
from leviathan_train.errors import UsageError
from leviathan_train.run.folder import Run
from leviathan_train.system import signs
from leviathan_train.system.files import folder_bytes
from leviathan_train.system.units import size
from leviathan_train.ui import checkpoints as pages
from leviathan_train.ui import text, values


@click.command(short_help="Delete old ones: show the plan, then delete.")
@run_argument
@click.option("--keep", type=int, metavar="N", help="Keep the newest N intact ones.")
@click.option("--keep-every", type=int, metavar="K", help="Also keep multiples of K steps.")
@click.option(
    "--keep-best",
    type=Count(min=0),
    metavar="K",
    help="Also keep the K best ones (default: 1).",
)
@click.option("--no-keep-best", is_flag=True, help="Do not keep the best one.")
@click.option(
    "--strip", is_flag=True, help="Of those that would go, keep the adapter weights, for a merge."
)
@click.option("--superseded", is_flag=True, help="Delete what was set aside instead.")
@click.option("--dry-run", is_flag=True, help="Show the plan, delete nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
def cleanup(
    run: str | None,
    keep: int | None,
    keep_every: int | None,
    keep_best: int | None,
    no_keep_best: bool,
    strip: bool,
    superseded: bool,
    dry_run: bool,
    yes: bool,
    json: bool,
) -> None:
    """Delete old checkpoints: show the plan with its reasons, then delete.

    Never deleted: the newest intact one, the best (unless --no-keep-best), one that a
    running training uses, and anything that is not a checkpoint of this run. What --strip
    leaves can be merged, not resumed from; a later cleanup keeps it with --strip alone.

    Example:  leviathan checkpoints cleanup --keep 2
    """
    if superseded:
        if strip or no_keep_best or {keep, keep_every, keep_best} != {None}:
            raise UsageError(
                "--superseded deletes all that was set aside: it takes no option that keeps some.",
                "Leave out --keep, --keep-every, --keep-best, --no-keep-best and --strip.",
            )
        _cleanup_superseded(find_run(run, quiet=json), dry_run=dry_run, yes=yes, json=json)
    elif keep is None:
        raise UsageError("--keep N is missing.", "For example:  --keep 2")
    elif no_keep_best and keep_best:
        raise UsageError("--keep-best and --no-keep-best cannot be combined.", "Use one of them.")
    else:
        best = 0 if no_keep_best else 1 if keep_best is None else keep_best
        policy = retention.Policy(keep, keep_every, best, strip=strip, keep_weights=strip)
        _cleanup(find_run(run, quiet=json), policy, dry_run=dry_run, yes=yes, json=json)


def _cleanup(run: Run, policy: retention.Policy, *, dry_run: bool, yes: bool, json: bool) -> None:
    scanned = scan(run, Read.NEW)
    items = retention.plan(scanned, policy, in_use=retention.in_use(run, scanned))
    value = values.cleanup(run, items)
    if not json:
        pages.plan(value)
    doomed = [item.checkpoint for item in items if not item.keep]
    if doomed and not json and not any(item.checkpoint.intact for item in items):
        print(f"{signs.WARNING} Not one is intact: there is nothing to resume from.")
    stripped = {item.checkpoint.step for item in items if item.strip}
    if doomed and not dry_run:
        words = [f"strip {text.count(len(stripped), 'checkpoint')}"] if stripped else []
        if rest := len(doomed) - len(stripped):
            words.insert(0, f"delete {text.count(rest, 'checkpoint')}")
        allow(f"{' and '.join(words).capitalize()}?", yes=yes, json=json)

    def tell(checkpoint: Checkpoint) -> None:
        if not json:
            word = "Stripping" if checkpoint.step in stripped else "Deleting"
            print(f"  {word} {checkpoint.name} ({size(checkpoint.bytes)})...", flush=True)

    done = [] if dry_run else retention.carry_out(run, items, tell)
    deleted = [step for step in done if step not in stripped]
    if json:
        gone = {"deleted": deleted, "stripped": [step for step in done if step in stripped]}
        text.document(value | gone | {"dry_run": dry_run})
    elif not dry_run:
        for checkpoint in doomed:
            if checkpoint.step not in done:
                print(f"  Kept {checkpoint.name} after all: the training uses it.")
        left = text.count(len(items) - len(deleted), "checkpoint")
        print(f"\n{signs.OK} Cleanup complete. {left} remaining.")


def _cleanup_superseded(run: Run, *, dry_run: bool, yes: bool, json: bool) -> None:
    total = folder_bytes(run.superseded)
    if not json:
        print(f"Set aside in {text.plain(run.superseded)}: {size(total)}")
    if run.superseded.is_dir() and not dry_run:
        allow("Delete what was set aside?", yes=yes, json=json)
        retention.clear_superseded(run)
    left = folder_bytes(run.superseded)
    if json:
        gone = {"superseded_bytes": left, "deleted_bytes": total - left}
        text.document({"run": run.name} | gone | {"dry_run": dry_run})
    elif not dry_run:
        print(f"\n{signs.OK} Cleanup complete. {size(left)} remaining.")
