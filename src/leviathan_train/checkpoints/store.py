"""Checkpoints: find them, tell whether they are intact, choose one.

A checkpoint is *sealed* by `leviathan.json`, written last; see `seal`. One without is
judged by `structure`. Nothing here unpickles or imports torch.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from leviathan_train.checkpoints import index
from leviathan_train.checkpoints import seal as seals
from leviathan_train.checkpoints.checkpoint import Checkpoint as Checkpoint
from leviathan_train.checkpoints.index import State
from leviathan_train.checkpoints.seal import SEAL as SEAL
from leviathan_train.checkpoints.seal import Facts as Facts
from leviathan_train.checkpoints.seal import FaultError as FaultError
from leviathan_train.checkpoints.seal import Seal as Seal
from leviathan_train.checkpoints.seal import Stat
from leviathan_train.checkpoints.seal import facts_of as facts_of
from leviathan_train.config.load import nearest
from leviathan_train.errors import UsageError
from leviathan_train.run.folder import Run
from leviathan_train.run.lookup import in_command, is_run
from leviathan_train.system.files import sync_folder

NAME = re.compile(r"checkpoint-(0|[1-9][0-9]*)")
"""How the folder of a checkpoint is called."""
WEIGHTS_ONLY = "only its adapter weights were kept"
"""Why nothing can be resumed from a checkpoint that was stripped."""


class Read(Enum):
    """How much of a checkpoint's files is read, to say whether it is intact.

    Attributes:
        NOTHING: headers and sizes, for a look. Where single files were changed since they
            were read, or what was read was damaged, all bytes.
        NEW: every byte that was not read before, for what relies on the answer.
        ALL: every byte.
    """

    NOTHING = "nothing"
    NEW = "new"
    ALL = "all"


def folders(run: Run) -> list[tuple[int, Path]]:
    """Step and path of each checkpoint folder of a run, by step; links and files are none.

    Raises:
        OSError: the run's folder is there, but cannot be read.
    """
    found = []
    try:
        with os.scandir(run.path) as entries:
            for entry in entries:
                match = NAME.fullmatch(entry.name)
                if match and entry.is_dir(follow_symlinks=False):
                    found.append((int(match[1]), run.path / entry.name))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(found)


def scan(run: Run, read: Read = Read.NEW, *, step: int | None = None) -> list[Checkpoint]:
    """Look at every checkpoint of a run, or at that of one step, oldest first.

    Raises:
        OSError: the run's folder is there, but cannot be read.
    """
    return list(scanning(run, read, step=step))


def scanning(run: Run, read: Read = Read.NEW, *, step: int | None = None) -> Iterator[Checkpoint]:
    """As `scan`, one by one."""
    saves = run.saves()
    for number, path in folders(run):
        if step is None or number == step:
            found = inspect(run, path, read, saves=saves)
            if found.intact or path.is_dir():  # else it was deleted since the look
                yield found


def inspect(
    run: Run, path: Path, read: Read = Read.NEW, *, saves: set[str] | None = None
) -> Checkpoint:
    """Say what a checkpoint folder holds and whether it is intact.

    What was found before is trusted while size, mtime, ctime and inode of each of its files
    are the same.
    """
    match = NAME.fullmatch(path.name)
    number = int(match[1]) if match else -1
    outside: set[str] = set()
    try:
        stats: Mapping[str, Stat] = seals.file_stats(path, outside)
        if outside:
            stats = seals.sealed_outside(path, stats, outside)
    except OSError as error:
        reason = seals.unreadable(os.path.relpath(error.filename or path, path.parent), error)
        return Checkpoint(path, number, Facts(number), "damaged", reason, 0, _mtime(path))
    settled = seals.settled(stats)
    files = {name: max(0, found[0]) for name, found in sorted(stats.items())}
    size = sum(files.values())
    modified = max((found[1] for found in stats.values()), default=0) / 1e9 or _mtime(path)
    ours = path.parent == run.path or path.parent.resolve() == run.path.resolve()
    known = index.recall(run, path.name) if ours and read is not Read.ALL else None
    if known and known.stats == stats and (known.is_read or read is Read.NOTHING):
        state = known.state
        if state in ({"intact", "weights"} if SEAL in stats else {"unsealed"}):
            reason = WEIGHTS_ONLY if state == "weights" else ""
            return Checkpoint(
                path, number, known.facts, state, reason, size, modified, files, known.is_read
            )
    doubted = known is not None and (known.state == "damaged" or known.looks_altered(stats))
    whole = read is not Read.NOTHING or doubted
    saves = run.saves() if saves is None else saves
    interrupted = ours and path.name in saves
    state, reason, facts = _judge(
        path, number, stats, outside, interrupted=interrupted, whole=whole
    )
    if ours and (whole if state == "damaged" else settled):  # the damaged is read at each look
        index.remember(run, path.name, index.Known(state, facts, whole, stats))
    elif ours and "damaged" in {state, known.state if known else ""}:
        index.forget(run, path.name)
    return Checkpoint(path, number, facts, state, reason, size, modified, files, whole)


def _mtime(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _judge(
    path: Path,
    number: int,
    stats: Mapping[str, Stat],
    outside: set[str],
    *,
    interrupted: bool,
    whole: bool,
) -> tuple[State, str, Facts]:
    """The state of a checkpoint, why no resume may trust it (empty if one may), and its facts.

    What lies outside of it is read only to compare it with a seal, which knows its size.
    """
    from leviathan_train.checkpoints import structure  # zipfile is not needed where the index knows

    facts = Facts(number)
    foreign = sorted(outside if SEAL not in stats else outside & {SEAL})
    if foreign:
        return "damaged", f"{foreign[0]} is a link out of the checkpoint, which is not read", facts
    if SEAL in stats:
        try:
            seal = seals.read(path)
        except FaultError as fault:
            return "damaged", str(fault), facts
        if seal.facts.step != number:
            return "damaged", f"{SEAL} is of step {seal.facts.step}", seal.facts
        faults = seals.compare(path, seal, stats, whole=whole)
        if not whole:  # what lost its content at a power cut kept its size
            own = set(stats) - outside
            faults = itertools.chain(faults, structure.file_faults(path, own, whole=False))
        if reason := next(faults, ""):
            return "damaged", reason, seal.facts
        if seal.weights_only:
            return "weights", WEIGHTS_ONLY, seal.facts
        return "intact", "", seal.facts
    try:
        facts = structure.read_facts(path, number, whole=whole)
    except FaultError as fault:
        return "damaged", str(fault), facts
    if interrupted:
        return "damaged", f"{SEAL} is missing: its save was interrupted", facts
    reason = next(structure.faults(path, stats, whole=whole), "")
    return "damaged" if reason else "unsealed", reason, facts


def ranks_of(checkpoint: Checkpoint) -> int:
    """The number of processes that wrote it: each leaves its own random state."""
    if checkpoint.seal:
        return checkpoint.seal.world_size
    return max(1, sum(name.startswith("rng_state_") for name in checkpoint.files or ()))


def write_seal(run: Run, path: Path, seal: Seal) -> Seal:
    """Make a checkpoint durable, then seal it; see `seal.write`.

    Raises:
        OSError: the disk refused; the checkpoint stays unsealed.
    """
    seal, stats = seals.write(path, seal)
    if stats is not None:
        index.remember(run, path.name, index.Known("intact", seal.facts, True, stats))
    return seal


def unseal(path: Path) -> None:
    """Take the seal off before a checkpoint is written again."""
    (path / SEAL).unlink(missing_ok=True)
    if path.is_dir():
        sync_folder(path)


def is_sealed(path: Path) -> bool:
    """Whether a seal is there; what it says is not compared."""
    return (path / SEAL).is_file()


def read_state(path: Path) -> dict[str, Any]:
    """`trainer_state.json` of a checkpoint.

    Raises:
        FaultError: it is missing, unreadable, or no trainer state.
    """
    from leviathan_train.checkpoints import structure

    return structure.read_state(path)


def latest(checkpoints: Sequence[Checkpoint]) -> Checkpoint | None:
    """The newest intact checkpoint."""
    return next((found for found in reversed(checkpoints) if found.intact), None)


def best(checkpoints: Sequence[Checkpoint]) -> Checkpoint | None:
    """The first of `ranked`."""
    return next(iter(ranked(checkpoints)), None)


def ranked(checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
    """The intact checkpoints by their metric, the best first: the config's own, else eval loss.

    The one that transformers itself tracks as best, as the newest knows it, comes first. Those
    whose value of the newest one's metric is not known (made without the plugin, or by another
    metric) come last, by their eval loss. Of several that know of the same evaluation, only the
    one nearest to it is ranked.
    """
    intact = [found for found in checkpoints if found.intact]
    if not intact:
        return []
    newest = intact[-1].facts
    first = [found for found in intact if found.step == newest.best_step]

    def order(found: Checkpoint) -> tuple[bool, float, int, int] | None:
        facts = found.facts
        value, is_other = facts.eval_loss, newest.metric is not None
        if newest.metric == facts.metric and facts.metric_value is not None:
            value, is_other = facts.metric_value, False
            value = -value if newest.greater_is_better else value
        if value is None or facts.eval_step == 0:  # of the base model, whoever bears it
            return None
        since = 0 if facts.eval_step is None else found.step - facts.eval_step
        return is_other, value, since, -found.step

    judged = [(key, found) for found in intact if (key := order(found))]
    judged.sort(key=lambda pair: pair[0])
    known: set[tuple[int | None, float | None]] = set()
    rest = []
    for found in [*first, *(one for _, one in judged)]:
        evaluation = (found.facts.eval_step, found.facts.eval_loss)
        if evaluation not in known or found.facts.eval_step is None:
            rest.append(found)
            known.add(evaluation)
    return list(dict.fromkeys(rest))


def select(
    run: Run, choice: str, checkpoints: list[Checkpoint], words: Sequence[str] = ("latest", "best")
) -> Checkpoint:
    """The checkpoint meant by `latest`, `best`, a step, or its path, intact or not.

    The path of a run means the newest intact one in it.

    Args:
        words: what may be typed besides a step or a path, for the hint.

    Raises:
        UsageError: there is none such, with the reason.
    """
    if not checkpoints and choice in {"latest", "best"}:
        raise UsageError(
            f"{run.name} has no checkpoint yet.", "One is saved at each save_steps, and at a pause."
        )
    if choice == "latest":
        found = latest(checkpoints)
        if found is None:
            raise UsageError(
                f"{run.name} has no intact checkpoint: {checkpoints[-1].name}:"
                f" {checkpoints[-1].reason}.",
                f"See them all with:  leviathan checkpoints list {in_command(run)}",
            )
        return found
    if choice == "best":
        found = best(checkpoints)
        if found is None:
            raise UsageError(
                f"{run.name} has no best checkpoint; why: none has an eval loss that is a number.",
                "Set val_set_size and eval_steps in the config, or name a step.",
            )
        return found
    number = step_of(choice)
    if number is not None:
        for candidate in checkpoints:
            if candidate.step == number:
                return candidate
        raise no_such_step(run, number, [found.step for found in checkpoints])
    path = Path(choice).resolve()
    if path.is_dir() and NAME.fullmatch(path.name):
        return inspect(Run(path.parent), path)
    if is_run(path):
        other = Run(path)
        return select(other, "latest", scan(other))
    close = nearest(choice, words)
    names = f"{', '.join(words)}, a step, a folder checkpoint-<step>, or the folder of a run"
    hint = f"Did you mean {close}?" if close else f"Name {names}."
    raise UsageError(f"No checkpoint {choice!r}.", hint)


def step_of(text: str) -> int | None:
    """The step meant by `1000` or `checkpoint-1000`; None if it is something else."""
    number = text.removeprefix("checkpoint-")
    return int(number) if number.isascii() and number.isdigit() else None


def no_such_step(run: Run, step: int, steps: list[int]) -> UsageError:
    """The refusal of a step that has no checkpoint."""
    has = ", ".join(map(str, steps)) or "none"
    return UsageError(f"{run.name} has no checkpoint of step {step}.", f"It has: {has}.")
