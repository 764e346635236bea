"""Which checkpoints are copied, which copies go, and which one a start would fetch: pure plans."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from leviathan_train.checkpoints import retention, store
from leviathan_train.checkpoints.facts import Facts
from leviathan_train.checkpoints.index import State
from leviathan_train.checkpoints.retention import Policy
from leviathan_train.checkpoints.seal import Seal
from leviathan_train.checkpoints.store import Checkpoint


class CopyState(StrEnum):
    """What a copy is worth. `set aside`: whole, but of a branch that was left."""

    WHOLE = "whole"
    PARTIAL = "partial"
    DAMAGED = "damaged"
    SET_ASIDE = "set aside"


@dataclass(frozen=True)
class Copy:
    """One checkpoint at another place.

    Attributes:
        reason: why it is damaged.
        seal_sha: SHA-256 of its seal's text, which tells it from another one of the same step.
        sizes: bytes of each file there by relative path.
    """

    name: str
    step: int
    state: CopyState
    reason: str = ""
    seal_sha: str = ""
    seal: Seal | None = field(default=None, repr=False, hash=False)
    sizes: Mapping[str, int] = field(default_factory=dict, repr=False, hash=False)

    @property
    def bytes(self) -> int:
        return sum(self.sizes.values())

    def as_checkpoint(self) -> Checkpoint:
        """The same for plans that are made for checkpoints of a disk."""
        facts = self.seal.facts if self.seal else Facts(self.step)
        whole = self.state is CopyState.WHOLE
        state: State = "intact" if whole else "damaged"
        if whole and self.seal is not None and self.seal.weights_only:
            state = "weights"
        reason = "" if whole else self.reason or self.state.value
        time = self.seal.time if self.seal else 0.0
        return Checkpoint(
            Path(self.name), self.step, facts, state, reason, self.bytes, time, self.sizes
        )


def to_copy(sealed: Mapping[int, str], copies: Sequence[Copy], policy: Policy | None) -> list[int]:
    """The steps that are to be copied, the newest first: it is the one that is missed most.

    Args:
        sealed: SHA-256 of the seal of each sealed checkpoint of the run, by step.
        policy: what is kept there; None keeps all.
    """
    there = {copy.step: copy.seal_sha for copy in copies if copy.state is CopyState.WHOLE}
    missing = [step for step, sha in sealed.items() if there.get(step) != sha]
    if policy is not None:
        # What would be pruned at once is not copied. Whether it is among the best is not asked:
        # it was copied when it was the newest.
        newest = sorted(set(sealed) | set(there))[-policy.keep :]
        missing = [step for step in missing if step in newest]
    return sorted(missing, reverse=True)


def to_prune(copies: Sequence[Copy], policy: Policy, aside: Iterable[str] = ()) -> list[Copy]:
    """The copies that may go.

    Never the newest whole one or the best. One that was set aside goes only if the run still
    has it: it may be the only one left.

    Args:
        aside: SHA-256 of the seals of the checkpoints that are set aside in the run.
    """
    kept = set(aside)
    branch = [copy for copy in copies if copy.state is not CopyState.SET_ASIDE]
    if not any(copy.state is CopyState.WHOLE for copy in branch):
        return []
    items = retention.plan([copy.as_checkpoint() for copy in branch], policy)
    going = {item.checkpoint.name for item in items if not item.keep}
    left = [copy for copy in copies if copy.state is CopyState.SET_ASIDE and copy.seal_sha in kept]
    return [copy for copy in branch if copy.name in going] + left


def abandoned(copies: Sequence[Copy], sealed: Mapping[int, str]) -> list[Copy]:
    """What was begun to be copied and never will be: the run has it no more."""
    return [copy for copy in copies if copy.state is CopyState.PARTIAL and copy.step not in sealed]


def to_set_aside(copies: Sequence[Copy], sealed: Mapping[int, str], resumed_at: int) -> list[Copy]:
    """The copies of a branch that a start leaves: newer than where it begins, and not its own."""
    return [
        copy
        for copy in copies
        if copy.state is CopyState.WHOLE
        and copy.step > resumed_at
        and sealed.get(copy.step) != copy.seal_sha
    ]


def to_fetch(
    choice: str,
    local: Sequence[Checkpoint],
    copies: Sequence[Copy],
    aside: Iterable[str] = (),
) -> list[Copy]:
    """The copies that a start with `--resume CHOICE` wants, the first that can be had.

    Empty if what the run itself has will do.

    Args:
        aside: SHA-256 of the seals of the checkpoints that are set aside in the run.
    """
    left = set(aside)
    intact = {item.step for item in local if item.intact}
    whole = [
        copy
        for copy in copies
        if copy.state is CopyState.WHOLE
        and copy.seal is not None
        and not copy.seal.weights_only
        and copy.seal_sha not in left
    ]
    if choice in {"ask", "auto", "latest"}:
        newest = max(intact, default=-1)
        return [copy for copy in reversed(whole) if copy.step > newest]
    if choice == "best":
        both = [item for item in local if item.intact]
        both += [copy.as_checkpoint() for copy in whole if copy.step not in intact]
        best = store.best(sorted(both, key=lambda item: item.step))
        return [copy for copy in whole if best and copy.step == best.step not in intact]
    step = store.step_of(choice)
    return [copy for copy in whole if copy.step == step and step not in intact]
