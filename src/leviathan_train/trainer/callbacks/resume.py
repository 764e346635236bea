"""Put back what a resume needs beyond what transformers loads, and prove what it loaded.

transformers restores adapter, optimizer, schedule, random state and the place in the data. It
forgets the running loss sums and early stopping's patience, and lets the checkpoint's settings
win over the config's.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from leviathan_train.checkpoints import seal as seals
from leviathan_train.checkpoints import store
from leviathan_train.errors import LeviathanError
from leviathan_train.run.folder import Run
from leviathan_train.run.records import Begin, Phase
from leviathan_train.system.files import read_json, write_json
from leviathan_train.trainer import other_callbacks, proof, settings, upstream
from leviathan_train.trainer.loop import Loop
from leviathan_train.trainer.position import start_at
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
        if loop.resumed_seal and (place := loop.resumed_seal.trainer.get("position")):
            start_at(loop.trainer, place)
        state = read_json(checkpoint / "trainer_state.json")
        limit = loop.trainer.args.max_steps
        if isinstance(state, dict) and 0 < limit <= state.get("global_step", 0):
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
        if loop.resumed:
            self._restore(loop.resumed, state)
        # transformers keeps the checkpoint's own intervals (`TrainerState.compute_steps`).
        state.compute_steps(args, state.max_steps)
        loop.first_step = state.global_step
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

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.loop.resumed and state.global_step == self.loop.first_step:
            upstream.set_sampler_epoch(kwargs["train_dataloader"], int(state.epoch or 0))

    def _restore(self, checkpoint: Path, state: Any) -> None:
        loop, trainer = self.loop, self.loop.trainer
        process, seal = loop.process, loop.resumed_seal
        expected = process.session.launch.resume_step
        if expected is not None and state.global_step != expected:
            raise LeviathanError(
                f"The trainer is at step {state.global_step} instead of {expected}."
            )
        process.say(f"Loading checkpoint: {checkpoint}")
        if process.rank == 0:
            for name in proof.prove_loaded(trainer, checkpoint):
                process.say(f"✅ Loaded {name}")
        other_callbacks.restore_callbacks(trainer)
        updates, schedule_steps = proof.counts(trainer)
        changed = None
        if loop.fresh is not None:
            changed = settings.apply_settings(trainer, loop.fresh, loop.schedule_steps)
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
        )
        if seal:
            sums = seal.trainer.get("loss_sums") or []
            if len(sums) == process.world_size:
                upstream.set_loss_sums(trainer, sums[process.rank])
            loop.seconds_before = seal.seconds_trained
        process.listener.last_checkpoint = checkpoint.name
        process.listener.tell(last_checkpoint=checkpoint.name)

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
