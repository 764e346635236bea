"""Which checkpoint a start resumes from, and what happens to the others."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from leviathan_train.checkpoints import retention
from leviathan_train.checkpoints import store as checkpoints
from leviathan_train.checkpoints.store import Checkpoint
from leviathan_train.config.load import Config
from leviathan_train.errors import UsageError
from leviathan_train.run.folder import Run, busy
from leviathan_train.run.lookup import in_command
from leviathan_train.system.files import sync_folder


@dataclass(frozen=True)
class Offer:
    """What a start finds in its run.

    Attributes:
        checkpoint: the one to resume from; None starts from the base model.
        damaged: newer ones that are not intact, newest first.
        newer: checkpoints of a branch that is left, to be set aside.
        superseded: whether the checkpoint was set aside before, and is to be brought back.
        ask: whether the user has to confirm.
        from_config: `resume_from_checkpoint` of the config, if it is the reason.
        note: what the user should know of the choice.
    """

    checkpoint: Checkpoint | None
    damaged: tuple[Checkpoint, ...] = ()
    newer: tuple[Checkpoint, ...] = ()
    superseded: bool = False
    ask: bool = False
    from_config: Path | None = None
    note: str | None = None

    @property
    def step(self) -> int:
        """The step at which training would begin."""
        return self.checkpoint.step if self.checkpoint else 0


def choose(run: Run, config: Config, choice: str, found: Sequence[Checkpoint]) -> Offer:
    """Decide what a start with `--resume CHOICE` resumes from.

    Args:
        choice: `ask`, `auto`, `never`, `latest`, `best`, a step, or the path of a checkpoint
            or of a run, which means its newest intact one.

    Raises:
        UsageError: there is no such checkpoint, or it is not intact.
    """
    known = list(found)
    if choice == "never":
        return Offer(None, newer=tuple(known))
    if choice not in {"ask", "auto"}:
        words = ("ask", "auto", "never", "latest", "best")
        offer = _named(run, checkpoints.select(run, choice, known, words), known)
        newer = offer.newer if choice == "latest" else ()
        return replace(offer, damaged=tuple(item for item in reversed(newer) if not item.intact))
    named = config.resume_from_checkpoint
    if named is not None and named.resolve() == run.path.resolve():
        named = None  # its newest, which a start takes anyway
    newest = checkpoints.latest(known)
    if named is not None and not _has_gone_on_from(run, named, newest):
        if not named.is_dir():
            raise UsageError(
                f"{config.at('resume_from_checkpoint')} {named} does not exist.",
                f"See what there is:  leviathan checkpoints list {in_command(run)}",
            )
        offer = _named(run, checkpoints.select(run, str(named.absolute()), known), known)
        # It stays where the config names it: the next start must find it there.
        return replace(offer, from_config=named, superseded=False)
    limit = newest.step if newest else -1
    damaged = tuple(item for item in reversed(known) if item.step > limit)
    if newest is None and damaged:
        raise UsageError(
            f"{run.name} has no intact checkpoint: {damaged[0].name}: {damaged[0].reason}.",
            "Start over, setting these aside, with:  --resume never",
        )
    note = None
    if named is not None and newest is not None:
        note = (
            "resume_from_checkpoint in the config was obeyed before, and this run has trained"
            f" since: it resumes from the newest checkpoint of that branch, {newest.name}."
        )
    return Offer(newest, damaged, damaged, ask=choice == "ask" and newest is not None, note=note)


def path_in(run: Run, offer: Offer) -> Path | None:
    """Where the checkpoint will be when the training begins."""
    if offer.checkpoint is None:
        return None
    # As the config writes the run's folder, so that messages and commands read alike.
    ours = offer.checkpoint.path.resolve().parent == run.path.resolve()
    inside = ours or offer.superseded
    return run.path / offer.checkpoint.name if inside else offer.checkpoint.path


def _named(run: Run, checkpoint: Checkpoint, known: list[Checkpoint]) -> Offer:
    if not checkpoint.intact:
        other = checkpoints.latest(known)
        hint = f"The newest intact one is {other.name}:  --resume {other.step}" if other else None
        raise UsageError(f"{checkpoint.name} is not intact: {checkpoint.reason}.", hint)
    folder = checkpoint.path.resolve().parent
    ours = folder == run.path.resolve()
    newer = [item for item in known if not ours or item.step > checkpoint.step]
    superseded = folder.parent == run.superseded.resolve() and not _looks_interrupted(
        run, checkpoint
    )
    return Offer(checkpoint, newer=tuple(newer), superseded=superseded)


def _looks_interrupted(run: Run, checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint without a seal would be taken for an interrupted save in the run."""
    return checkpoint.seal is None and checkpoint.name in run.saves()


def wrote(run: Run, checkpoint: Checkpoint) -> bool:
    """Whether a session of this run wrote a checkpoint, or has resumed from it before.

    torch unpickles optimizer and random state at a resume, which can run code: what came from
    elsewhere is a matter of trust. What the run's own records say is believed.
    """
    folder = checkpoint.path.resolve().parent
    ours = folder == run.path.resolve() or folder.parent == run.superseded.resolve()
    if ours and checkpoint.name in run.saves() | Run(folder).saves():
        return True
    known = {session.launch.resume_from for session in run.sessions() if session.begin}
    paths = (Path(named) for named in known if named)
    return any(path.resolve() == checkpoint.path.resolve() for path in paths)


def _has_gone_on_from(run: Run, named: Path, newest: Checkpoint | None) -> bool:
    """Whether the run has trained since it obeyed the config's checkpoint."""
    launches = [session.launch for session in run.sessions()]
    began = [one.resume_step for one in launches if one.resume_from_config == str(named)]
    return newest is not None and any(step is not None and newest.step > step for step in began)


def bring_back(run: Run, chosen: Checkpoint) -> list[str]:
    """Move a superseded checkpoint, and the earlier ones of its branch, back into the run.

    What else the run holds is set aside first, so that two branches are never mixed.

    Returns:
        Names of the checkpoints that were moved.

    Raises:
        OSError: a folder could not be moved; what was moved stays moved.
    """
    aside = Run(chosen.path.parent)
    branch = [
        item
        for item in checkpoints.scan(aside)
        if item.intact and item.step <= chosen.step and not _looks_interrupted(run, item)
    ]
    for item in branch:  # the chosen one last: until then the folder still names the branch
        item.path.rename(run.path / item.name)
    sync_folder(run.path)
    sync_folder(aside.path)
    if not set(os.listdir(aside.path)) - {aside.records.name}:
        shutil.rmtree(aside.path)
    return [item.name for item in branch]


def delete_all(run: Run, found: Sequence[Checkpoint]) -> None:
    """Delete every checkpoint of a run, newest last, so that a break loses the least.

    Raises:
        LeviathanError: the run has begun to train meanwhile.
        OSError: a folder could not be renamed or removed.
    """
    with run.locked():
        if session := run.live_session():
            raise busy(run, session)
        for checkpoint in sorted(found, key=lambda item: item.step):
            retention.delete(run, checkpoint)


def trains_longer(config: Config, checkpoint: Checkpoint) -> bool:
    """Whether the config asks for more epochs or steps than the one that made the checkpoint."""
    before = checkpoint.seal.config if checkpoint.seal else {}
    limit, epochs = _number(config.values, "max_steps"), _number(config.values, "num_epochs")
    if not before:
        if limit > 0:
            return limit > checkpoint.step
        return epochs > (checkpoint.facts.epoch or epochs)
    old_limit, old_epochs = _number(before, "max_steps"), _number(before, "num_epochs")
    if limit != old_limit:
        return limit == 0 or limit > old_limit > 0 or limit > checkpoint.step
    return epochs > old_epochs > 0


def _number(values: Mapping[str, Any], key: str) -> float:
    """A number above 0; 0 where there is none."""
    try:
        return max(0.0, float(values.get(key) or 0))
    except (TypeError, ValueError):
        return 0.0


def seconds_lost(found: Sequence[Checkpoint]) -> float | None:
    """Seconds of training that the newest checkpoint holds, if its seal tells."""
    seals = [item.seal for item in found if item.seal]
    return max((seal.seconds_trained for seal in seals), default=None)
