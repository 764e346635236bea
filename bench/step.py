"""What the plugin costs in each step of a training, in microseconds.

    python bench/step.py

Times the callbacks that run in every step, with the watching thread at work beside them, on
one process. The training itself is left out: `bench/train.py` measures the whole.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

from leviathan_train.run.folder import Run
from leviathan_train.run.records import Launch, Phase, Status
from leviathan_train.trainer.callback import LeviathanCallback
from leviathan_train.trainer.listener import Deadline, Watch

STEPS = 100_000


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        run = Run(Path(name))
        session = run.open_session(Launch(), role="rank0")
        watch = Watch(session, 0, Status("run", Phase.TRAINING, 1, "here"), Deadline(), print)
        watch.may_leave = False
        watch.start()
        args = SimpleNamespace(save_strategy=SimpleNamespace(value="steps"))
        state = SimpleNamespace(global_step=0, max_steps=10**9, epoch=0.5, save_steps=500)
        control = SimpleNamespace(should_save=False, should_evaluate=False)
        callback = LeviathanCallback.__new__(LeviathanCallback)
        callback.__dict__ |= {
            "life": SimpleNamespace(watch=watch, rank=0, world_size=1),
            "trainer": SimpleNamespace(args=args, state=state),
            "cfg": SimpleNamespace(leviathan_save_minutes=30),
            "pausing": False,
            "group": None,
            "saved_at": time.monotonic(),
            "step_began": time.perf_counter(),
            "mean_seconds": 0.0,
        }
        watch.describe = callback._describe
        began = time.perf_counter()
        for _ in range(STEPS):
            state.global_step += 1
            callback.on_step_begin(args, state, control)
            callback.on_step_end(args, state, control)
        cost = (time.perf_counter() - began) / STEPS
        watch.close()
    print(f"{cost * 1e6:.1f} microseconds a step")


if __name__ == "__main__":
    main()
