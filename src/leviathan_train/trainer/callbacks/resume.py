"""Put back what a resume needs beyond what transformers loads, and prove what it loaded.

transformers restores adapter, optimizer, schedule, random state and the place in the data. It
forgets the running loss sums and early stopping's patience, and lets the checkpoint's settings
win over the config's.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from leviathan_train.checkpoints import seal as seals
from leviathan_train.checkpoints import store
from leviathan_train.checkpoints.aside import set_aside
from leviathan_train.checkpoints.store import Seal
from leviathan_train.config.effects import ORDER
from leviathan_train.config.exactness import inexact_optimizer
from leviathan_train.config.redact import redact
from leviathan_train.errors import LeviathanError
from leviathan_train.run.folder import Run
from leviathan_train.run.records import Begin, Phase
from leviathan_train.system.files import read_object, write_json
from leviathan_train.trainer import (
    optimizer_settings,
    other_callbacks,
    proof,
    rows,
    sharded,
    upstream,
)
from leviathan_train.trainer.loop import Loop
from leviathan_train.trainer.position import placed, position, start_at
from leviathan_train.trainer.seam import Seam
from leviathan_train.trainer.writer import CheckpointWriter


class ResumeCallback(TrainerCallback):
    """Makes a resumed training what it was, before its first step."""

    def __init__(self, loop: Loop, writer: CheckpointWriter) -> None:
        self.loop = loop
        self.writer = writer
        checkpoint = loop.resumed = self._checkpoint()
        if checkpoint is None:
            return
        # A full evaluation before the first step; it also repacks 4-bit weights.
        loop.trainer.args.eval_on_start = False
        if store.is_sealed(checkpoint):
            loop.resumed_seal = seals.read(checkpoint)
        seal = loop.resumed_seal
        if seal and (place := seal.trainer.get("position")):
            start_at(loop.trainer, place, loop.process.world_size, seal.world_size)
        state = read_object(checkpoint / "trainer_state.json")
        if 0 < loop.trainer.args.max_steps <= state.get("global_step", 0):
            upstream.skip_the_loop(loop.trainer)
        folder, step = os.environ.get("TENSORBOARD_LOGGING_DIR"), store.step_of(checkpoint.name)
        if folder and step is not None and loop.process.rank == 0:
            other_callbacks.drop_tensorboard_after(loop.trainer, step, folder)

    def _checkpoint(self) -> Path | None:
        """The checkpoint to resume from; None for a new training.

        Raises:
            LeviathanError: it is not intact, or the command line named one that did not arrive.
        """
        loop = self.loop
        named, expected = loop.cfg.resume_from_checkpoint, loop.process.session.launch.resume_step
        if not named:
            if expected is not None:
                raise LeviathanError(
                    f"The trainer should resume at step {expected} but got no checkpoint."
                )
            return None
        path = Path(str(named))
        if loop.process.rank == 0:
            found = store.inspect(Run(path.absolute().parent), path.absolute())
            if not found.intact:
                raise LeviathanError(f"{path} is not intact: {found.reason}.")
        return path

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        loop, listener = self.loop, self.loop.process.listener
        upstream.check_training(loop.trainer)
        loop.ranks.open()
        self._meet()
        if loop.resumed:
            self._restore(loop.resumed, state)
        # transformers keeps the checkpoint's own intervals (`TrainerState.compute_steps`).
        state.compute_steps(args, state.max_steps)
        loop.first_step = state.global_step
        if loop.process.rank == 0 and not loop.process.session.launch.cli:
            _leave_branch(loop, state.global_step)
        listener.last_step = state.global_step or None
        listener.tell(step=state.global_step, max_steps=state.max_steps, epoch=state.epoch)
        if loop.process.rank == 0:
            with contextlib.suppress(OSError):
                begin = Begin(time.time(), state.global_step)
                write_json(loop.process.session.begin_file, asdict(begin))
        listener.take_signals()  # Axolotl and torch may have set handlers of their own
        listener.may_leave = False
        if loop.resumed_seal and loop.resumed_seal.trainer.get("evaluation_owed"):
            self._make_up_evaluation()
        loop.began = loop.saved_at = time.monotonic()

    def _meet(self) -> None:
        """See that all ranks are of one session: each machine's command looks for it by itself.

        Raises:
            LeviathanError: they are not.
        """
        sessions = self.loop.ranks.gather(self.loop.process.session.id)
        if others := sorted(set(sessions) - {sessions[0]}):
            raise LeviathanError(
                f"Rank 0 belongs to session {sessions[0]} and others to {', '.join(others)}."
            )

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.loop.resumed and state.global_step == self.loop.first_step:
            upstream.set_sampler_epoch(kwargs["train_dataloader"], int(state.epoch or 0))
            self._prove_rows()

    def _prove_rows(self) -> None:
        """Compare what comes next in the data with what the checkpoint knew would come."""
        loop, seal = self.loop, self.loop.resumed_seal
        known = (seal.trainer.get("rows") or []) if seal else []
        if seal and seal.world_size != loop.process.world_size:
            self._tell_place(seal)
            return
        if seal is None or len(known) != loop.process.world_size or not known[loop.process.rank]:
            return  # sealed by version 0.1.0, or at the end of an epoch
        place, found = position(loop.trainer), None
        stored = seal.trainer.get("position") or {}
        if {**place, **stored} == place:  # an older version stored less
            with contextlib.suppress(Exception):  # any data set of any plugin
                found = rows.digests(loop.trainer, place)
        told = rows.compared(known[loop.process.rank], found or {})
        worst = max(loop.ranks.gather(told), key=list(rows.Rows).index)
        if worst is rows.Rows.SAME:
            loop.process.say("✅ Same rows in the same order")
            return
        cause = _why_other_rows(worst, seal.config, loop.config.values)
        if loop.process.session.launch.prepare_anew:
            cause = f"they were prepared anew, as you asked ({cause})"
        loop.process.output.show(f"⚠️  Other rows than before: {cause}")
        if loop.seam:
            loop.seam.other_rows = f"other rows than before: {cause}"

    def _tell_place(self, seal: Seal) -> None:
        """Say how the data goes on for another number of processes."""
        loop, stored = self.loop, seal.trainer.get("position") or {}
        now, then = loop.process.world_size, seal.world_size
        divided = f"on {now} process{'' if now == 1 else 'es'} instead of {then}"
        here = placed(stored, loop.trainer.args, now, then) if stored else None
        same = here is not None and not loop.cfg.sample_packing  # see `config.batch.keeps_step`
        if here and same and here.batches == position(loop.trainer)["batches"]:
            rows = here.batches * now * loop.trainer.args.per_device_train_batch_size
            loop.process.say(f"Goes on after {rows} rows of the epoch, {divided}.")
        else:
            loop.process.output.show(f"⚠️  Other rows than before: {divided}")

    def _restore(self, checkpoint: Path, state: Any) -> None:
        loop, trainer = self.loop, self.loop.trainer
        process, seal = loop.process, loop.resumed_seal
        expected = process.session.launch.resume_step
        if expected is not None and state.global_step != expected:
            raise LeviathanError(
                f"The trainer is at step {state.global_step} instead of {expected}."
            )
        process.say(f"Loading checkpoint: {checkpoint}")
        if sharded.is_sharded(trainer):
            self._restore_shards(checkpoint)
        if process.rank == 0:
            if why := inexact_optimizer(loop.config):
                process.output.show(f"⚠️  {why}")
            for name in proof.prove_loaded(
                trainer, checkpoint, loop.fresh or (), with_optimizer=not why
            ):
                process.say(f"✅ Loaded {name}")
        other_callbacks.restore_callbacks(trainer)
        updates, schedule_steps = proof.counts(trainer)
        changed = None
        if loop.fresh is not None:
            changed = optimizer_settings.apply_settings(trainer, loop.fresh, loop.schedule_steps)
        if changed:
            process.output.show(f"Now as the config says: {changed}")
        loop.seam = Seam(
            step=state.global_step,
            before=list(state.log_history),
            optimizer_steps=updates,
            schedule_steps=schedule_steps,
            expected_rate=float(trainer.optimizer.param_groups[0]["lr"]),
            memory_before=seal.trainer.get("gpu_memory") if seal else None,
            changed=bool(changed),
            edited=(seal.trainer.get("edited") or ()) if seal else (),
        )
        if seal:
            sums = seal.trainer.get("loss_sums") or []
            if len(sums) == process.world_size:
                upstream.set_loss_sums(trainer, sums[process.rank])
            elif sums:  # what is logged is the mean over the ranks
                means = [sum(column) / len(sums) for column in zip(*sums, strict=True)]
                upstream.set_loss_sums(trainer, means)
            loop.seconds_before = seal.seconds_trained
        process.listener.last_checkpoint = checkpoint.name
        process.listener.tell(last_checkpoint=checkpoint.name)

    def _restore_shards(self, checkpoint: Path) -> None:
        """Load and prove what each rank has a part of; on all ranks."""
        loop = self.loop
        sharded.load_adapter(loop.trainer, checkpoint)
        for name, same in sharded.prove_loaded(loop.trainer, checkpoint):
            proof.claim(name, all(loop.ranks.gather(same)), checkpoint)
            loop.process.say(f"✅ Loaded {name}")

    def _make_up_evaluation(self) -> None:
        """The evaluation that a pause broke off, so that the log has no gap."""
        loop = self.loop
        loop.evaluation_owed = True
        loop.process.phase(Phase.EVALUATING)
        upstream.evaluate(loop.trainer)
        loop.evaluation_owed = False
        state, resumed = loop.trainer.state, loop.resumed
        at_the_end = state.global_step >= state.max_steps
        if at_the_end and resumed and loop.checkpoint.resolve() == resumed.resolve():
            self.writer.save_log_again()


def _leave_branch(loop: Loop, step: int) -> None:
    """Set aside what is newer in the run, as the command line does before it starts one."""
    run, resumed, say = loop.process.run, loop.resumed, loop.process.say
    ours = resumed is not None and resumed.resolve().parent == run.path.resolve()
    found = store.scan(run, store.Read.NOTHING)
    try:
        if aside := set_aside(run, [item for item in found if not ours or item.step > step]):
            say(f"Set aside in {aside}: what was trained beyond step {step}")
    except OSError as error:
        say(f"⚠️  What was trained beyond step {step} could not be set aside: {error}")


def _why_other_rows(found: rows.Rows, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The likely cause: what changed in the config, or else what can change without it."""
    changed = [key for key in sorted(ORDER) if before.get(key) != redact(now).get(key)]
    if changed:
        return ", ".join(f"{key} was {before.get(key)}" for key in changed)
    if found is rows.Rows.OTHER_CONTENT:
        return "the data changed, or was tokenised in another way"
    return "the data or the number of rows changed, or the libraries draw in another way"
