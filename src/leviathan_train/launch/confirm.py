"""What a person is told and asked before a training starts, and what their answers do.

The questions are asked by whoever has a terminal, through a `Dialog`.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from leviathan_train.checkpoints import store as checkpoints
from leviathan_train.checkpoints.store import Checkpoint
from leviathan_train.config.changes import Change, Topic
from leviathan_train.config.effects import Effect
from leviathan_train.config.load import Config
from leviathan_train.errors import Declined, LeviathanError, UsageError
from leviathan_train.launch import resume
from leviathan_train.launch.activity import Activity
from leviathan_train.launch.command import Typed
from leviathan_train.launch.resume import Offer
from leviathan_train.run.folder import Run
from leviathan_train.system.units import count


class ResumeAnswer(StrEnum):
    """What to do with the checkpoint that was found; `delete` means every one of the run."""

    YES = "yes"
    NO = "no"
    DELETE = "delete"


class RowsAnswer(StrEnum):
    """What to do with prepared rows that are older than their data file."""

    KEEP = "keep"
    REBUILD = "rebuild"
    NO = "no"


class Dialog(Protocol):
    """What a start tells a person, and asks of them if one is there."""

    @property
    def interactive(self) -> bool:
        """Whether a person is there to answer; otherwise nothing is asked."""

    def tell(self, line: str) -> None:
        """Show one line."""

    def show_offer(self, run: Run, offer: Offer) -> None:
        """Say what was found to resume from."""

    def show_progress(self, now: Activity) -> None:
        """Draw what the trainer last told of itself; called some times a second."""

    def end_progress(self) -> None:
        """Take away what `show_progress` drew."""

    def ask_resume(self, checkpoint: Checkpoint, found: Sequence[Checkpoint]) -> ResumeAnswer:
        """Ask whether to resume from `checkpoint`; `found` is what `delete` would delete."""

    def confirm(self, question: str) -> bool:
        """Ask what yes or no answers."""

    def ask_rows(self) -> RowsAnswer:
        """Ask what to do with prepared rows whose data file changed."""


def refuse(config: Config, offer: Offer, found: Sequence[Change], typed: Typed) -> None:
    """Refuse changes with which the checkpoint that is offered cannot be resumed.

    Raises:
        UsageError: naming each of them.
    """
    refused = [change for change in found if change.effect is Effect.REFUSED]
    if not refused or offer.checkpoint is None:
        return
    first, keys = refused[0], ", ".join(change.key for change in refused)
    other = f"start another run with:  {typed.again(*_another(config.output_dir))}"
    if offer.from_config:  # another run would be refused, too
        other = f"name another checkpoint in {config.at('resume_from_checkpoint')}"
    given = ("--set" if config.is_set(change.key) else str(config.path) for change in refused)
    where = " and ".join(dict.fromkeys(given))
    raise UsageError(
        f"{where}: {keys} must stay as in {offer.checkpoint.name} ({first.key} was"
        f" {first.shown[0]}): {first.why}.",
        f"Restore it, or {other}    or start over with:  {typed.again('--resume', 'never')}",
    )


def _another(output_dir: Path) -> tuple[str, str]:
    """The option that trains into a folder beside this one, which is not there yet."""
    number = 2
    while Path(f"{output_dir}_{number}").exists():
        number += 1
    return "--set", f"output_dir={output_dir}_{number}"


def confirm_resume(
    dialog: Dialog, run: Run, offer: Offer, found: Sequence[Checkpoint], typed: Typed
) -> Offer:
    """Ask whether to resume from what was found, and do what the answer says.

    Returns:
        The offer to start with; without a checkpoint, if all were deleted.

    Raises:
        Declined: the answer was no.
        LeviathanError: the run's checkpoints are not those that were shown any more.
    """
    assert offer.checkpoint is not None
    answer = dialog.ask_resume(offer.checkpoint, found)
    if answer is ResumeAnswer.NO:
        raise Declined(
            "Nothing was changed.",
            f"Start over, setting the checkpoints aside:  {typed.again('--resume', 'never')}"
            f"    Another run:  {typed.again(*_another(run.path))}",
        )
    if [step for step, _ in checkpoints.folders(run)] != [item.step for item in found]:
        raise LeviathanError(
            f"{run.name} has changed since it was shown.", "Type the same command again."
        )
    if answer is ResumeAnswer.YES:
        return offer
    resume.delete_all(run, found)
    deleted = count(len(found), "checkpoint")
    dialog.tell(f"Deleted {deleted}. Training starts from the base model.")
    return Offer(None)


def confirm_source(dialog: Dialog, run: Run, offer: Offer, *, yes: bool, dry_run: bool) -> None:
    """Have a checkpoint confirmed that this run did not write; it is asked about once.

    Where the question whether to resume follows anyway, that one is enough. Without anybody to
    ask, what lies in the run's own folder is taken (plain Axolotl began that run), and what
    another run wrote by its own records.

    Raises:
        Declined: the answer was no.
        UsageError: nobody is there to ask, and no run says that it wrote the checkpoint.
    """
    checkpoint = offer.checkpoint
    if checkpoint is None or resume.wrote(run, checkpoint):
        return
    folder = checkpoint.path.resolve().parent
    dialog.tell(
        f"⚠️  {checkpoint.name} was not written by leviathan in this run. A resume unpickles its"
        " optimizer.pt and rng_state.pth, which can run code: resume only from a source that you"
        " trust."
    )
    if dry_run or yes or offer.ask:
        return
    if dialog.interactive:
        if not dialog.confirm("Resume from it?"):
            raise Declined("Nothing was changed.")
    elif folder != run.path.resolve() and checkpoint.name not in Run(folder).saves():
        raise UsageError(
            f"{checkpoint.path} was written by no run of leviathan. Cannot ask without a terminal.",
            "Add --yes to resume from it if you trust its source.",
        )


def confirm_changes(dialog: Dialog, found: Sequence[Change], *, yes: bool) -> bool:
    """Have changes that cost something confirmed.

    Args:
        yes: all are accepted, and the prepared rows kept.

    Returns:
        Whether to rebuild the prepared rows.

    Raises:
        Declined: the answer was no.
        UsageError: nobody is there to ask.
    """
    asked = [change for change in found if change.needs_yes]
    if not asked or yes:
        return False
    stale = [change for change in asked if change.topic is Topic.DATA_FILE]
    if not dialog.interactive:
        rows = " with the prepared rows as they are" if stale else ""
        old = "install what it was made with"
        if any(change.topic is not Topic.VERSION for change in asked):
            old = "restore the old value"
        raise UsageError(
            f"{', '.join(change.key for change in asked)} changed since the checkpoint."
            " Cannot ask without a terminal.",
            f"Add --yes to resume{rows}, or {old}.",
        )
    if len(stale) < len(asked) and not dialog.confirm("Resume with these changes?"):
        raise Declined("Nothing was changed.")
    answer = dialog.ask_rows() if stale else RowsAnswer.KEEP
    if answer is RowsAnswer.NO:
        raise Declined("Nothing was changed.")
    return answer is RowsAnswer.REBUILD
