"""What a save does when the disk has no room for it: make room, try once more, then stop.

A training that cannot save any more would lose every further step, so it is ended, with the
last intact checkpoint as it is.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import NoReturn

from leviathan_train.checkpoints import index, retention, store
from leviathan_train.checkpoints.final import FINAL_FILE
from leviathan_train.checkpoints.retention import Policy
from leviathan_train.checkpoints.store import Checkpoint
from leviathan_train.errors import FAILED, PAUSED
from leviathan_train.run.folder import Run
from leviathan_train.run.records import NO_ROOM, Cause, Ending
from leviathan_train.system.files import free_bytes, is_out_of_space
from leviathan_train.trainer.loop import Loop
from leviathan_train.trainer.process import leave_process

_LEAST = 1 << 20


class Room:
    """The room on the disk for the checkpoints of one training.

    Args:
        policy: what retention keeps; None keeps all, also where the disk is full.
    """

    def __init__(self, loop: Loop, policy: Policy | None) -> None:
        self._loop = loop
        self._policy = policy
        self._tried_at: int | None = None

    def look_ahead(self) -> None:
        """Make room before a save of several ranks, where the disk has visibly too little.

        A rank alone tries once more after a save that failed. Of several, one that fails leaves
        the others in the middle of what they write together.
        """
        ranks = self._loop.ranks
        if ranks.size > 1 and ranks.rank == 0:
            self._make_room(_largest(store.scan(self._loop.process.run)))

    def for_final(self) -> None:
        """Make room for what a finished training leaves: the weights, an adapter's twice.

        Only where it is visibly needed, before rank 0 writes them.
        """
        last = store.latest(store.scan(self._loop.process.run))
        if last is not None and self._loop.ranks.rank == 0:
            once = sum(size for name, size in last.files.items() if FINAL_FILE.match(name))
            self._make_room(2 * once, "the final adapter")

    def _make_room(self, need: int, what: str = "") -> None:
        """Delete what may go, where the disk visibly has less than `need` bytes."""
        free = free_bytes(self._loop.process.run.path)
        if free is not None and free < need:
            self._tell_freed(self._free(need), what)

    def after(self, error: Exception) -> None:
        """Make room after a save of the current step that failed, so that it can be tried again.

        What was written of it is removed. Only what `save_total_limit` need not keep goes,
        oldest first, and no more than one checkpoint needs.

        Where that was tried before, the training is ended.

        Raises:
            Exception: `error` itself, if it is not about a full disk.
        """
        loop = self._loop
        run, step = loop.process.run, loop.trainer.state.global_step
        found = store.scan(run)
        need = _largest(found)
        if not is_out_of_space(error, run.path, need):
            raise error
        if loop.process.rank == 0:
            _remove(run, loop.checkpoint)
        if loop.ranks.size > 1 or self._tried_at == step:
            self._give_up()
        self._tried_at = step
        self._tell_freed(self._free(need))

    def _tell_freed(self, gone: list[str], what: str = "") -> None:
        freed = f" Deleted to make room: {', '.join(gone)}." if gone else ""
        what = what or self._loop.checkpoint.name
        self._loop.process.say(f"⚠️  No space left for {what}.{freed}")

    def _free(self, need: int) -> list[str]:
        """Delete what may go until the disk has `need` bytes; the names of what is gone.

        One goes in any case: where a quota is full, the disk does not tell what is free.
        """
        loop, policy = self._loop, self._policy
        run = loop.process.run
        found = [item for item in store.scan(run) if item.path != loop.checkpoint]
        gone: list[str] = []
        if policy is None:
            return gone
        least = Policy(1, policy.keep_every, policy.keep_best)
        used = {}
        if loop.resumed and (step := store.step_of(loop.resumed.name)) is not None:
            used[step] = "the training resumed from it"
        missing = need - (free_bytes(run.path) or 0)
        # What a resume cannot use goes first.
        plan = retention.plan(found, least, in_use=used)
        for item in sorted(plan, key=lambda item: item.checkpoint.intact):
            if gone and missing <= 0:
                break
            if not item.keep and _remove(run, item.checkpoint.path):
                # Some file systems free the room later; others free more than the files held.
                freed = missing - item.checkpoint.bytes
                missing = min(freed, need - (free_bytes(run.path) or 0))
                gone.append(item.checkpoint.name)
        return gone

    def _give_up(self) -> NoReturn:
        """End the training: it could not save any more."""
        loop, process = self._loop, self._loop.process
        found = store.scan(process.run)
        last = store.latest(found)
        name = last.name if last else None
        process.listener.last_step = last.step if last else None
        why = f"{NO_ROOM} for {loop.checkpoint.name}"
        process.close_session(Ending.CRASHED, name, why, Cause.DISK)
        if process.session.end is None:  # not a byte was free for it
            for item in found:  # what was verified can be verified again
                index.forget(process.run, item.name)
            process.close_session(Ending.CRASHED, name, why, Cause.DISK)
        if process.rank == 0:
            left = f"{name} is intact." if name else "There is no intact checkpoint."
            with contextlib.suppress(OSError):  # in the log; the command line tells it by itself
                print(f"Training stops: {why}. {left}", flush=True)
        process.listener.close()
        leave_process(PAUSED if last else FAILED)


def _remove(run: Run, path: Path) -> bool:
    """Remove a checkpoint's folder by way of another name; whether it is gone."""
    try:
        retention.remove_tree(path, run.path / f".leviathan-deleting-{path.name}")
        index.forget(run, path.name)
    except OSError:
        return False
    return True


def _largest(found: list[Checkpoint]) -> int:
    """The size of the next checkpoint, in bytes, as far as earlier ones tell.

    Its log is longer than theirs.
    """
    return max((int(item.bytes * 1.02) for item in found if item.intact), default=_LEAST)
