"""Sealing a checkpoint, beside the training if it is large, and then retention."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from leviathan_train.checkpoints import retention, store
from leviathan_train.checkpoints.retention import Policy
from leviathan_train.checkpoints.store import Checkpoint, Seal
from leviathan_train.system.files import folder_bytes
from leviathan_train.system.units import size
from leviathan_train.trainer.process import TrainerProcess

INLINE_BYTES = 1 << 30
"""Above this a checkpoint is hashed beside the training: below, the wait is under a second."""


class Sealer:
    """Seals one checkpoint at a time; older ones go once the new one is sealed.

    Args:
        policy: what to keep; None keeps all.
        on_failure: called, perhaps in another thread, when a sealing beside the training failed.
    """

    def __init__(
        self, process: TrainerProcess, policy: Policy | None, on_failure: Callable[[], None]
    ) -> None:
        self._process = process
        self._policy = policy
        self._on_failure = on_failure
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def seal(self, path: Path, seal: Seal, asked_for: set[str], *, wait: bool) -> None:
        """Seal the checkpoint at `path`.

        Args:
            asked_for: names of the requests that it fulfils.
            wait: be done on return, however large it is.

        Raises:
            OSError: the disk refused. Where it is done beside, `join` raises it.
        """
        if wait or folder_bytes(path) <= INLINE_BYTES:
            self._seal(path, seal, asked_for)
            if not wait:  # a pause tells of its checkpoint itself
                self._tell(path)
        else:
            self._thread = threading.Thread(target=self._beside, args=(path, seal, asked_for))
            self._thread.start()

    def wait(self) -> None:
        """Wait for a sealing beside the training, whatever becomes of it."""
        if self._thread:
            self._thread.join()
            self._thread = None

    def join(self) -> None:
        """Wait for a sealing beside the training, and raise, once, what it failed of."""
        self.wait()
        error, self._error = self._error, None
        if error:
            raise error

    def _beside(self, path: Path, seal: Seal, asked_for: set[str]) -> None:
        try:
            self._seal(path, seal, asked_for)
            self._tell(path)
        except BaseException as error:
            self._error = error
            self._on_failure()

    def _seal(self, path: Path, seal: Seal, asked_for: set[str]) -> None:
        run = self._process.run
        store.write_seal(run, path, seal)
        self._process.listener.saved(path.name, asked_for)
        if self._policy:
            in_use = {seal.facts.step: "just saved"}
            for item in retention.plan(store.scan(run), self._policy, in_use=in_use):
                if not item.keep:
                    self._delete(item.checkpoint)

    def _tell(self, path: Path) -> None:
        self._process.say(f"Saved {path.name} ({size(folder_bytes(path))})")

    def _delete(self, checkpoint: Checkpoint) -> None:
        run = self._process.run
        if not checkpoint.intact:
            again = store.inspect(run, checkpoint.path, store.Read.ALL)
            if again.intact or "cannot be read" in again.reason:
                return  # a disk or a network may have failed for a moment
        try:
            retention.delete(run, checkpoint)
        except OSError as error:  # one checkpoint too many is no reason to end a training
            self._process.say(f"⚠️  {checkpoint.name} could not be deleted: {error.strerror}")
