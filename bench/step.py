"""What the plugin costs in each step of a training, in microseconds.

    python bench/step.py

Times the callbacks that run in every step, with the listening thread at work beside them, on
one process. The training itself is left out: `bench/train.py` measures the whole.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from leviathan_train.config.load import Config
from leviathan_train.run.folder import Run
from leviathan_train.run.records import Launch, Phase, Status
from leviathan_train.trainer import callbacks
from leviathan_train.trainer.lead import Deadline
from leviathan_train.trainer.listener import Listener
from leviathan_train.trainer.loop import Loop
from leviathan_train.trainer.ranks import Ranks

STEPS = 100_000


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        run = Run(Path(name))
        session = run.open_session(Launch(), role="rank0")
        status = Status("run", Phase.TRAINING, 1, "here")
        listener = Listener(session, 0, status, Deadline(), print)
        listener.may_leave = False
        listener.start()
        args = SimpleNamespace(save_strategy=SimpleNamespace(value="steps"))
        state = SimpleNamespace(global_step=0, max_steps=10**9, epoch=0.5, save_steps=500)
        control = SimpleNamespace(should_save=False, should_evaluate=False)
        process: Any = SimpleNamespace(listener=listener, rank=0, world_size=1, run=run)
        trainer: Any = SimpleNamespace(args=args, state=state)
        cfg = SimpleNamespace(leviathan_save_minutes=30)
        loop = Loop(process, trainer, cfg, Config(Path("config"), {}), Ranks(0, 1), {})
        writer: Any = None
        called = (callbacks.PauseCallback(loop, writer), callbacks.ReportCallback(loop))
        began = time.perf_counter()
        for _ in range(STEPS):
            state.global_step += 1
            for callback in called:
                callback.on_step_begin(args, state, control)
                callback.on_step_end(args, state, control)
        cost = (time.perf_counter() - began) / STEPS
        listener.close()
    print(f"{cost * 1e6:.1f} microseconds a step")


if __name__ == "__main__":
    main()
