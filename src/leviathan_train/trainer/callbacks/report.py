"""Tell what the training does: the log's lines, the numbers, the status, the resume's verdict."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from transformers import TrainerCallback

from leviathan_train.run.records import Phase, SeamWord
from leviathan_train.system import readahead
from leviathan_train.system.files import write_json
from leviathan_train.trainer.loop import Loop
from leviathan_train.trainer.seam import Seam
from leviathan_train.trainer.writer import gpu_memory

SHOWN = {
    "loss": ".4f",
    "eval_loss": ".4f",
    "grad_norm": ".3g",
    "learning_rate": ".3e",
    "epoch": ".4g",
}
"""What a line of the log shows, in this order, and in which form."""


class ReportCallback(TrainerCallback):
    """Tells, and changes nothing."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.mean_seconds = 0.0
        self.step_began = time.perf_counter()
        self.first = (0, self.step_began)
        loop.process.listener.describe = self.describe

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.loop.process.phase(Phase.EVALUATING if args.eval_on_start else Phase.TRAINING)
        if self.loop.seam:
            self._judge(self.loop.seam)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.step_began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note the step's time; this runs in every step, so the rest is left to `describe`."""
        now = time.perf_counter()
        seconds, self.step_began = now - self.step_began, now
        if not self.mean_seconds:
            self.first = (state.global_step, now)
            if self.loop.process.rank == 0:
                # A start is over: what it read from disk is read ahead in the next one.
                threading.Thread(target=readahead.note, daemon=True).start()
        self.mean_seconds += (seconds - self.mean_seconds) * (0.05 if self.mean_seconds else 1.0)
        listener = self.loop.process.listener
        listener.last_step = state.global_step
        # The longest of the recent steps: one that was long is forgotten by and by.
        longest = 0.99 * listener.deadline.step_seconds
        listener.deadline.step_seconds = max(seconds, longest)
        if control.should_evaluate:
            self.loop.process.phase(Phase.EVALUATING)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if control.should_evaluate:
            self.loop.process.phase(Phase.EVALUATING)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._goes_on()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._goes_on()

    def _goes_on(self) -> None:
        self.loop.process.phase(Phase.TRAINING)
        self.step_began = time.perf_counter()

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        logs, process = logs or {}, self.loop.process
        numbers = {key: logs[key] for key in SHOWN if isinstance(logs.get(key), int | float)}
        process.output.log(state.global_step, logs)
        if "loss" in logs or "eval_loss" in logs:
            told = " ".join(f"{key}={value:{SHOWN[key]}}" for key, value in numbers.items())
            process.say(f"Step {state.global_step}: {told}")
        numbers.pop("epoch", None)
        memory = gpu_memory()
        process.listener.tell(**numbers, gpu_memory_bytes=memory)
        if (seam := self.loop.seam) and "loss" in logs:
            seam.add({**logs, "step": state.global_step}, memory)
            self._judge(seam)

    def _judge(self, seam: Seam) -> None:
        """Tell how the log looks across the resume, once it can be said."""
        verdict, process = seam.verdict(), self.loop.process
        if process.rank == 0:
            with contextlib.suppress(OSError):
                write_json(process.session.seam_file, asdict(verdict))
        if verdict.word is not SeamWord.TOO_EARLY:
            sign = "✅" if verdict.word is SeamWord.CONTINUOUS else "⚠️ "
            process.output.show(
                f"{sign} Resume at step {seam.step}: {verdict.word}: {verdict.cause}"
            )
            self.loop.seam = None

    def describe(self) -> Mapping[str, Any]:
        """The status of the moment; called by the listening thread, once a second at most."""
        state, mean = self.loop.trainer.state, self.mean_seconds
        minutes = self.loop.cfg.leviathan_save_minutes
        since = time.monotonic() - self.loop.saved_at
        return {
            "step": state.global_step,
            "max_steps": state.max_steps,
            "epoch": state.epoch,
            "steps_per_second": 1 / mean if mean else None,
            "eta_seconds": self._seconds_left(state),
            "next_save_step": self._next_save(state),
            "next_save_at": time.time() + minutes * 60 - since if minutes else None,
        }

    def _seconds_left(self, state: Any) -> float | None:
        """Until the last step: as long a step as those of this session, with what lay between."""
        if not self.mean_seconds:
            return None
        first, began = self.first
        steps = state.global_step - first
        all_in = (time.perf_counter() - began) / steps if steps else 0.0
        return float((state.max_steps - state.global_step) * max(self.mean_seconds, all_in))

    def _next_save(self, state: Any) -> int | None:
        strategy = self.loop.trainer.args.save_strategy
        if str(strategy.value) != "steps" or not state.save_steps:
            return None
        every = int(state.save_steps)
        return min((int(state.global_step) // every + 1) * every, int(state.max_steps))
