"""Writing and sealing checkpoints in the trainer, and what a finished training leaves."""

from __future__ import annotations

import copy
import time
from typing import Any

import torch

from leviathan_train.checkpoints import store
from leviathan_train.checkpoints.final import hide_secrets, keep_final
from leviathan_train.checkpoints.retention import Policy
from leviathan_train.checkpoints.store import Seal
from leviathan_train.config.effects import ORDER
from leviathan_train.config.redact import redact, secrets
from leviathan_train.config.versions import installed
from leviathan_train.errors import LeviathanError
from leviathan_train.run.records import Cause, Ending, Phase
from leviathan_train.trainer import rows, sharded, upstream
from leviathan_train.trainer.disk_space import Room
from leviathan_train.trainer.loop import Loop
from leviathan_train.trainer.position import position
from leviathan_train.trainer.sealing import Sealer

LIBRARIES = ("axolotl", "transformers", "peft", "accelerate", "torch")
"""What a checkpoint depends on besides this package."""


class CheckpointWriter:
    """Writes full checkpoints through transformers, and seals them.

    Retention is ours: transformers' own goes by modification time, before the new checkpoint
    is safe, and would delete the one that a pause has just written.
    """

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        policy = _policy(loop)
        self._room = Room(loop, policy)
        self._sealer = Sealer(loop.process, policy, loop.owe_save)
        self._asked_for: set[str] = set()
        self._began = time.monotonic()
        args = loop.trainer.args
        if args.save_only_model:
            args.save_only_model = False
            loop.process.say("save_only_model has no effect: a checkpoint can be resumed from.")
        args.save_total_limit = None
        upstream.wrap_save(loop.trainer, self._wrapped)

    def _wrapped(self, original: upstream.Save) -> upstream.Save:
        def save(model: Any, trial: Any, **kwargs: Any) -> Any:
            loop = self.loop
            state = loop.trainer.state
            # A save appends to it (transformers, `_save_checkpoint`), and may be tried twice.
            before = copy.deepcopy(state.stateful_callbacks)
            while True:
                try:
                    self._begin_save()
                    saved = original(model, trial, **kwargs)
                    sharded.save_adapter(loop.trainer, loop.checkpoint)
                    return saved
                except Exception as error:  # each library tells of a full disk in its own way
                    self._room.after(error)
                    state.stateful_callbacks = copy.deepcopy(before)
                finally:
                    self._end_save()

        return save

    def _begin_save(self) -> None:
        loop, process = self.loop, self.loop.process
        self._began = time.monotonic()
        self._sealer.join()
        # A request that comes from now on may be too late for this checkpoint.
        self._asked_for = set(process.listener.heard.saves)
        loop.save_owed = False
        if process.rank == 0:
            store.unseal(loop.checkpoint)
            process.run.begin_save(loop.checkpoint.name)
        process.phase(Phase.SAVING)
        self._room.look_ahead()

    def _end_save(self) -> None:
        loop = self.loop
        loop.saved_at = time.monotonic()
        deadline = loop.process.listener.deadline
        deadline.save_seconds = max(deadline.save_seconds, loop.saved_at - self._began)

    def save(self) -> None:
        """Write and seal the current step, unless it is sealed already; on all ranks."""
        self._sealer.wait()
        if not store.is_sealed(self.loop.checkpoint):
            upstream.save_checkpoint(self.loop.trainer)
            self.seal()

    def seal(self) -> None:
        """Seal what the trainer has just written; on all ranks.

        Large checkpoints are sealed beside the training, unless this step is the last.
        """
        loop = self.loop
        known = loop.ranks.gather((upstream.loss_sums(loop.trainer), self._coming_rows()))
        loop.ranks.barrier()  # rank 0 may be here before rank 1 has written its random state
        if loop.process.rank == 0:
            asked_for, self._asked_for = self._asked_for, set()
            try:
                self._sealer.seal(loop.checkpoint, self._seal(known), asked_for, wait=loop.pausing)
            except OSError as error:
                self._save_again(error)

    def _save_again(self, error: OSError) -> None:
        """Save once more what could not be sealed: a full disk may have lost what was written."""
        self._room.after(error)
        upstream.save_checkpoint(self.loop.trainer)
        self.seal()

    def save_log_again(self) -> None:
        """Write the log once more into the last checkpoint of all, which no later one follows."""
        loop = self.loop
        if loop.process.rank == 0:
            store.unseal(loop.checkpoint)
            loop.trainer.state.save_to_json(str(loop.checkpoint / "trainer_state.json"))
        self.seal()

    def prove(self) -> None:
        """Re-read the current step's checkpoint.

        Raises:
            LeviathanError: it is not as it was written.
        """
        self._sealer.join()
        loop = self.loop
        found = store.inspect(loop.process.run, loop.checkpoint, store.Read.ALL)
        if not found.intact:
            raise LeviathanError(f"{loop.checkpoint} was not written correctly: {found.reason}.")

    def make_room_for_final(self) -> None:
        """See that a finished training's weights fit on the disk, if retention can do that."""
        self._sealer.wait()
        self._room.for_final()

    def finish(self) -> None:
        """Keep the final adapter as `checkpoint-final` and record that training is done."""
        self._sealer.join()
        loop, process = self.loop, self.loop.process
        hide_secrets(process.run.path / "README.md", secrets(loop.config.values))
        if loop.cfg.adapter:
            keep_final(process.run)
        process.listener.last_step = loop.trainer.state.global_step
        last = process.listener.last_checkpoint
        process.close_session(Ending.FINISHED, last, "training ended by itself", Cause.DONE)
        process.say(f"Training finished at step {loop.trainer.state.global_step}.")

    def _coming_rows(self) -> dict[str, str] | None:
        """Digests of this rank's next rows; a data set that gives none is no fault."""
        loop = self.loop
        if loop.resumed_seal and loop.trainer.state.global_step == loop.first_step:
            # Before its first epoch, a sampler of packed rows gives what it was counted with.
            return self._known_rows(loop.resumed_seal)
        try:
            return rows.digests(self.loop.trainer, position(self.loop.trainer))
        except Exception:  # any data set of any plugin
            return None

    def _known_rows(self, seal: Seal) -> dict[str, str] | None:
        """The digests of the checkpoint that was resumed from; None where other rows come now."""
        loop, now = self.loop, redact(dict(self.loop.config.values))
        same = seal.world_size == loop.process.world_size and all(
            seal.config.get(key) == now.get(key) for key in ORDER
        )
        known = seal.trainer.get("rows") or ()
        if not same or loop.process.session.launch.prepare_anew or len(known) < seal.world_size:
            return None
        rows_of_rank: dict[str, str] | None = known[loop.process.rank]
        return rows_of_rank

    def _seal(self, known: list[tuple[list[float], dict[str, str] | None]]) -> Seal:
        loop, args = self.loop, self.loop.trainer.args
        return Seal(
            facts=store.facts_of(
                vars(loop.trainer.state),
                args.metric_for_best_model,
                greater_is_better=bool(args.greater_is_better),
            ),
            time=time.time(),
            seconds_trained=loop.seconds_trained,
            world_size=loop.process.world_size,
            versions=installed(LIBRARIES),
            config=redact(dict(loop.config.values)),
            trainer={
                "loss_sums": [sums for sums, _ in known],
                "rows": [coming for _, coming in known],
                "position": position(loop.trainer),
                "evaluation_owed": loop.evaluation_owed,
                "inputs": dict(loop.inputs),
                "gpu_memory": gpu_memory(),
            },
        )


def _policy(loop: Loop) -> Policy | None:
    """What to keep, by the config; None keeps all."""
    args, cfg = loop.trainer.args, loop.cfg
    keep_best = 1 if cfg.leviathan_keep_best is None else int(cfg.leviathan_keep_best)
    if args.load_best_model_at_end and not keep_best:
        raise LeviathanError(
            f"leviathan_keep_best: {cfg.leviathan_keep_best} would delete what"
            " load_best_model_at_end needs.",
            "Set one of them to the opposite.",
        )
    if (args.save_total_limit or 0) <= 0:
        return None
    return Policy(args.save_total_limit, cfg.leviathan_keep_every, keep_best)


def gpu_memory() -> int | None:
    """Bytes that this process holds on its GPU; None without one."""
    if not torch.cuda.is_available():
        return None
    return int(torch.cuda.memory_reserved())
