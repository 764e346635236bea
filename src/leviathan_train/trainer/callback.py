"""What happens inside the training loop: save, seal, pause and restore.

Line references are to transformers 5.16.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback

import leviathan_train
from leviathan_train.checkpoints import seal as seals
from leviathan_train.checkpoints import store as checkpoints
from leviathan_train.checkpoints.final import hide_secrets, keep_final
from leviathan_train.checkpoints.retention import Policy
from leviathan_train.checkpoints.store import Facts, Seal
from leviathan_train.config.load import Config
from leviathan_train.config.redact import redact, secrets
from leviathan_train.errors import LeviathanError
from leviathan_train.run.folder import End, Run
from leviathan_train.system.files import read_json, write_json
from leviathan_train.trainer import restore
from leviathan_train.trainer.process import Life, leave_process
from leviathan_train.trainer.sealing import Sealer
from leviathan_train.trainer.seam import Seam

LIBRARIES = ("axolotl", "transformers", "peft", "accelerate", "torch")

# On several CPU ranks transformers loads the optimizer with `map_location="cpu:0"`
# (trainer.py, `_load_optimizer_and_scheduler`), a location that torch 2.13 does not know.
torch.serialization.register_package(
    100, lambda _: None, lambda storage, at: storage if re.fullmatch(r"cpu:\d+", at) else None
)


class LeviathanCallback(TrainerCallback):
    """Saves, seals, pauses and restores inside the training loop.

    A pause leaves the process from `on_save` (or from the evaluation that it breaks off),
    before anything that belongs to a finished training can happen.
    """

    def __init__(
        self, life: Life, trainer: Any, cfg: Any, config: Config, inputs: dict[str, Any]
    ) -> None:
        self.life = life
        self.trainer = trainer
        self.cfg = cfg
        self.config = config
        self.inputs = inputs
        self.fresh: list[restore.Group] | None = None
        self.schedule_steps = 0
        self.pausing = False
        self.evaluation_owed = False
        self.group: Any = None
        self.began = self.saved_at = time.monotonic()
        self.first_step = 0
        self.trained_before = 0.0
        self.step_began = 0.0
        self.seam: Seam | None = None
        self.mean_seconds = 0.0
        args = trainer.args
        if args.load_best_model_at_end and cfg.leviathan_keep_best is False:
            raise LeviathanError(
                "leviathan_keep_best: false would delete what load_best_model_at_end needs."
            )
        policy = (
            Policy(
                args.save_total_limit,
                cfg.leviathan_keep_every,
                cfg.leviathan_keep_best is not False,
            )
            if (args.save_total_limit or 0) > 0
            else None
        )
        self.sealer = Sealer(life, policy)
        if args.save_only_model:
            args.save_only_model = False
            life.say("save_only_model has no effect: every checkpoint can be resumed from.")
        # Rotation goes by mtime, before the new checkpoint is safe (trainer.py:3148).
        args.save_total_limit = None
        self.resumed = self._resumed_checkpoint()
        self.resumed_seal: Seal | None = None
        if self.resumed:
            # A full evaluation before the first step; it also repacks 4-bit weights.
            args.eval_on_start = False
            if checkpoints.is_sealed(self.resumed):
                self.resumed_seal = seals.read(self.resumed)
            if self.resumed_seal and (position := self.resumed_seal.trainer.get("position")):
                restore.set_position(trainer, position)
            self._skip_loop_if_done()
            self._drop_replayed_steps()
        self._wrap_save()

    # -- before the first step -------------------------------------------------------

    def _resumed_checkpoint(self) -> Path | None:
        named = self.cfg.resume_from_checkpoint
        expected = self.life.session.launch.get("resume_step")
        if not named:
            if expected is not None:
                raise LeviathanError(
                    f"The trainer was to resume at step {expected} but got no checkpoint."
                )
            return None
        path = Path(str(named))
        if self.life.rank == 0:
            found = checkpoints.inspect(Run(path.absolute().parent), path.absolute())
            if not found.intact:
                raise LeviathanError(f"{path} is not intact: {found.reason}.")
        return path

    def _skip_loop_if_done(self) -> None:
        """A checkpoint of the last step needs no step more, but the loop would train one."""
        state = read_json(self.resumed / "trainer_state.json") if self.resumed else None
        limit = self.trainer.args.max_steps
        if state and limit > 0 and state.get("global_step", 0) >= limit:
            self.trainer._run_epoch = lambda **kwargs: None

    def _drop_replayed_steps(self) -> None:
        """Let TensorBoard forget what was logged after the checkpoint by a session that died."""
        folder = os.environ.get("TENSORBOARD_LOGGING_DIR")
        match = re.search(r"checkpoint-(\d+)$", str(self.resumed))
        for callback in self.trainer.callback_handler.callbacks:
            if (
                isinstance(callback, TensorBoardCallback)
                and folder
                and match
                and not self.life.rank
            ):
                from torch.utils.tensorboard import SummaryWriter

                callback.tb_writer = SummaryWriter(folder, purge_step=int(match[1]) + 1)

    def _wrap_save(self) -> None:
        original = self.trainer._save_checkpoint

        def save(model: Any, trial: Any, **kwargs: Any) -> Any:
            self.sealer.join()
            path = self._checkpoint()
            if self.life.rank == 0:
                checkpoints.unseal(path)
                self.life.run.begin_save(path.name)
            self.life.phase("saving")
            began = time.monotonic()
            try:
                return original(model, trial, **kwargs)
            finally:
                self.saved_at = time.monotonic()
                deadline = self.life.watch.deadline
                deadline.save_seconds = max(deadline.save_seconds, self.saved_at - began)

        self.trainer._save_checkpoint = save

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        watch = self.life.watch
        if self.life.world_size > 1 and dist.is_initialized():
            self.group = dist.new_group(backend="gloo")
        seal = self.resumed_seal
        if self.resumed:
            self._restore(self.resumed, state)
        # transformers keeps the checkpoint's own intervals (trainer.py:1578).
        state.compute_steps(args, state.max_steps)
        self.first_step = state.global_step
        watch.last_step = state.global_step or None
        watch.tell(step=state.global_step, max_steps=state.max_steps, epoch=state.epoch)
        if self.life.rank == 0:
            self._write_begin(state)
        watch.take_signals()
        watch.describe = self._describe
        watch.may_leave = False
        if seal and seal.trainer.get("evaluation_owed"):
            self._make_up_evaluation()
        self.life.phase("evaluating" if args.eval_on_start else "training")
        self.began = self.saved_at = time.monotonic()
        self.step_began = time.perf_counter()

    def _restore(self, checkpoint: Path, state: Any) -> None:
        life, trainer, seal = self.life, self.trainer, self.resumed_seal
        expected = life.session.launch.get("resume_step")
        if expected is not None and state.global_step != expected:
            raise LeviathanError(
                f"The trainer stands at step {state.global_step} instead of {expected}."
            )
        life.say(f"Loading checkpoint: {checkpoint}")
        if life.rank == 0:
            for name in restore.prove_loaded(trainer, checkpoint):
                life.say(f"✅ Loaded {name}")
        restore.restore_callbacks(trainer)
        counts = restore.counts(trainer)
        changed = None
        if self.fresh is not None:
            changed = restore.apply_settings(trainer, self.fresh, self.schedule_steps)
            if changed:
                life.show(f"Now as the config says: {changed}")
        self.seam = Seam(
            step=state.global_step,
            before=list(state.log_history),
            optimizer_steps=counts[0],
            schedule_steps=counts[1],
            expected_rate=float(trainer.optimizer.param_groups[0]["lr"]),
            memory_before=seal.trainer.get("gpu_memory") if seal else None,
            changed=bool(changed),
        )
        if seal:
            sums = seal.trainer.get("loss_sums") or []
            if len(sums) == life.world_size:
                restore.set_loss_sums(trainer, sums[life.rank])
            self.trained_before = seal.seconds_trained
        life.watch.last_checkpoint = checkpoint.name
        life.watch.tell(last_checkpoint=checkpoint.name)

    def _make_up_evaluation(self) -> None:
        """The evaluation that a pause broke off, so that the log has no gap."""
        self.evaluation_owed = True
        self.life.phase("evaluating")
        trainer = self.trainer
        metrics = trainer._evaluate(None, None)
        trainer._determine_best_metric(metrics=metrics, trial=None)
        self.evaluation_owed = False
        state, resumed = trainer.state, self.resumed
        if state.global_step < state.max_steps or resumed is None:
            return
        if self._checkpoint().resolve() == resumed.resolve():
            self._save_log()

    def _save_log(self) -> None:
        """Write the log once more into a checkpoint that no later one follows."""
        sums = self._gather(restore.loss_sums(self.trainer))
        if self.life.rank == 0:
            path = self._checkpoint()
            checkpoints.unseal(path)
            self.trainer.state.save_to_json(str(path / "trainer_state.json"))
            self._seal(sums)

    def _write_begin(self, state: Any) -> None:
        facts = checkpoints.facts_of(vars(state)) if state.log_history else Facts(state.global_step)
        write_json(
            self.life.session.path / "begin.json",
            {"at": time.time(), "first_step": state.global_step, "facts": asdict(facts)},
        )

    # -- the loop --------------------------------------------------------------------

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.resumed and state.global_step == self.first_step:
            restore.pack_anew(kwargs["train_dataloader"], int(state.epoch or 0))

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.pausing:  # no save came at the step's end, as after save_strategy: best
            self._save_and_leave()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        now = time.perf_counter()
        self._measure(now - self.step_began, state.global_step)
        self.step_began = now
        pause, save = self._agree()
        if pause and state.global_step < state.max_steps:
            self.pausing = True
            epoch_ends = state.epoch is not None and float(state.epoch).is_integer()
            # At an epoch's end its evaluation is still to come; see `on_epoch_end`.
            if control.should_evaluate or not epoch_ends:
                control.should_save = True
        elif save:
            control.should_save = True
        if control.should_evaluate:
            self.life.phase("evaluating")

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.pausing:
            control.should_save = True
        if control.should_evaluate:
            self.life.phase("evaluating")

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A pause breaks an evaluation off; its first batch is drawn, so that the RNG is too."""
        if self.pausing or self._agree()[0]:
            if state.global_step == 0:
                pause = self.life.watch.pause
                why = pause.by if pause else "another rank"
                self.life.leave_early(End("stopped", None, None, why, time.time()))
            self.evaluation_owed = True
            self._save_and_leave()

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.life.phase("training")
        self.step_began = time.perf_counter()

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        logs = logs or {}
        shown = [_format(key, logs[key]) for key in SHOWN if isinstance(logs.get(key), int | float)]
        if "loss" in logs or "eval_loss" in logs:
            self.life.say(f"Step {state.global_step}: {' '.join(shown)}")
        known = {
            key: logs[key]
            for key in ("loss", "eval_loss", "grad_norm", "learning_rate")
            if key in logs
        }
        memory = gpu_memory()
        self.life.watch.tell(**known, gpu_memory_bytes=memory)
        if self.seam and "loss" in logs:
            self.seam.add({**logs, "step": state.global_step}, memory)
            self._judge_seam(self.seam)

    def _judge_seam(self, seam: Seam) -> None:
        verdict = seam.verdict()
        if self.life.rank == 0:
            write_json(self.life.session.path / "seam.json", asdict(verdict))
        if verdict.word != "too early":
            sign = "✅" if verdict.word == "continuous" else "⚠️ "
            self.life.show(f"{sign} Resume at step {seam.step}: {verdict.word}: {verdict.cause}")
            self.seam = None

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        sums = self._gather(restore.loss_sums(self.trainer))
        self._barrier()  # rank 0 may be here before rank 1 has written its RNG state
        if self.life.rank == 0:
            self._seal(sums)
        if self._agree()[0] and state.global_step < state.max_steps:
            self.pausing = True
        if self.pausing:
            self._leave()
        self.life.watch.save = False
        self.life.phase("training")
        self.step_began = time.perf_counter()

    def _measure(self, seconds: float, step: int) -> None:
        """Note a step's time; runs in every step, so the rest is left to `_describe`."""
        self.mean_seconds += (seconds - self.mean_seconds) * (0.05 if self.mean_seconds else 1.0)
        watch = self.life.watch
        watch.last_step = step
        watch.deadline.step_seconds = max(seconds, 0.99 * watch.deadline.step_seconds)

    def _describe(self) -> dict[str, Any]:
        """The status of the moment; called by the watching thread, once a second at most."""
        state, mean = self.trainer.state, self.mean_seconds
        minutes = self.cfg.leviathan_save_minutes
        since = time.monotonic() - self.saved_at
        return {
            "step": state.global_step,
            "max_steps": state.max_steps,
            "epoch": state.epoch,
            "steps_per_second": 1 / mean if mean else None,
            "eta_seconds": (state.max_steps - state.global_step) * mean if mean else None,
            "next_save_step": self._next_save(state),
            "next_save_at": time.time() + minutes * 60 - since if minutes else None,
        }

    def _next_save(self, state: Any) -> int | None:
        if str(self.trainer.args.save_strategy.value) != "steps" or not state.save_steps:
            return None
        every = int(state.save_steps)
        return min((int(state.global_step) // every + 1) * every, int(state.max_steps))

    def _agree(self) -> tuple[bool, bool]:
        """Whether any rank was asked to pause, and whether to save now: the same on all ranks."""
        watch, minutes = self.life.watch, self.cfg.leviathan_save_minutes
        pause = watch.pause is not None
        save = watch.save or bool(minutes and time.monotonic() - self.saved_at > minutes * 60)
        if self.group is None:
            return pause, save
        flags = torch.tensor([int(pause), int(save)], dtype=torch.int32)
        dist.all_reduce(flags, op=dist.ReduceOp.MAX, group=self.group)
        return bool(flags[0]), bool(flags[1])

    # -- saving and leaving ----------------------------------------------------------

    def _checkpoint(self) -> Path:
        return self.life.run.checkpoint(self.trainer.state.global_step)

    def _save_and_leave(self) -> NoReturn:
        self.pausing = True
        path = self._checkpoint()
        self.sealer.join()
        if not checkpoints.is_sealed(path):
            self.trainer._save_checkpoint(self.trainer.model, trial=None)
            sums = self._gather(restore.loss_sums(self.trainer))
            self._barrier()
            if self.life.rank == 0:
                self._seal(sums)
        self._leave()

    def _seal(self, sums: list[list[float]]) -> None:
        path, state = self._checkpoint(), self.trainer.state
        seal = Seal(
            facts=checkpoints.facts_of(vars(state)),
            time=time.time(),
            seconds_trained=self.trained_before + time.monotonic() - self.began,
            world_size=self.life.world_size,
            versions=versions(),
            config=redact(dict(self.config.values)),
            trainer={
                "loss_sums": sums,
                "position": restore.position(self.trainer),
                "evaluation_owed": self.evaluation_owed,
                "inputs": self.inputs,
                "gpu_memory": gpu_memory(),
            },
        )
        self.sealer.seal(path, seal, wait=self.pausing)

    def _leave(self) -> NoReturn:
        """End the process after a pause; the checkpoint is re-read before anything is claimed."""
        life, step = self.life, self.trainer.state.global_step
        self.sealer.join()
        path = self._checkpoint()
        if life.rank == 0:
            found = checkpoints.inspect(life.run, path, always_read=True)
            if not found.intact:
                raise LeviathanError(f"{path} was not written as it should be: {found.reason}.")
            life.say(f"Checkpoint saved to {life.shown / path.name}")
            life.say("Training stopped gracefully.")
            why = life.watch.pause.by if life.watch.pause else "another rank"
            life.session.close(End("paused", step, path.name, why, time.time()))
        self._barrier()
        for callback in self.trainer.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback) and callback.tb_writer:
                callback.tb_writer.close()
        life.watch.close()
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()
        leave_process()

    def finish(self) -> None:
        """Keep the final adapter as `checkpoint-final` and record that training is done."""
        self.sealer.join()
        life, step = self.life, self.trainer.state.global_step
        hide_secrets(life.run.path / "README.md", secrets(self.config.values))
        if self.cfg.adapter:
            keep_final(life.run)
        last = life.watch.last_checkpoint
        life.session.close(End("finished", step, last, "training ended by itself", time.time()))
        life.say(f"Training finished at step {step}.")

    def _gather(self, value: list[float]) -> list[list[float]]:
        if self.group is None:
            return [value]
        gathered: list[Any] = [None] * self.life.world_size
        dist.all_gather_object(gathered, value, group=self.group)
        return gathered

    def _barrier(self) -> None:
        if self.group is not None:
            dist.barrier(group=self.group)


SHOWN = ("loss", "eval_loss", "grad_norm", "learning_rate", "epoch")


def _format(key: str, value: float) -> str:
    form = {"learning_rate": ".3e", "epoch": ".4g", "grad_norm": ".3g"}.get(key, ".4f")
    return f"{key}={value:{form}}"


def gpu_memory() -> int | None:
    """Bytes that this process holds on its GPU; None without one."""
    if not torch.cuda.is_available():
        return None
    return int(torch.cuda.memory_reserved())


def versions() -> dict[str, str]:
    """Versions of this package and of the libraries that a checkpoint depends on."""
    found = {"leviathan": leviathan_train.__version__}
    return found | {name: importlib.metadata.version(name) for name in LIBRARIES}
