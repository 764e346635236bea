"""Run folders as a command line and a trainer write them, without either of them."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from leviathan_train.checkpoints.store import Facts, Seal, write_seal
from leviathan_train.run import metrics
from leviathan_train.run.folder import Run
from leviathan_train.run.records import Begin, End, Ending, Launch, Phase, Status
from leviathan_train.run.session import Session
from leviathan_train.system.files import write_json


def log(session: Session, steps: range, loss: Callable[[int], float] | None = None) -> None:
    """Write what a trainer logs, an evaluation each 100 steps included."""
    loss = loss or (lambda step: 1 + math.exp(-step / 200))
    with session.metrics_file.open("a") as stream:
        for step in steps:
            told = {"loss": loss(step), "grad_norm": 0.412, "learning_rate": 1.7e-4}
            stream.write(metrics.line(step, time.time(), told))
            if step % 100 == 0:
                stream.write(metrics.line(step, time.time(), {"eval_loss": loss(step) + 0.1}))


def tell(run: Run, session: Session, **changes: Any) -> None:
    """Write the status of a trainer at step 1500 of 3525."""
    status = Status(str(run.path), Phase.TRAINING, os.getpid(), "a4000", 1500, 3525, 0.4255)
    known = {"steps_per_second": 0.271, "eta_seconds": 7472.0, "updated": time.time()}
    known |= {"next_save_step": 2000, "next_save_at": time.time() + 1000}
    known |= {"loss": 1.0006, "eval_loss": 1.1006, "learning_rate": 1.7e-4, "grad_norm": 0.412}
    write_json(session.status_file, asdict(replace(status, **(known | changes))))


def seal(run: Run, step: int) -> Path:
    """A sealed checkpoint of 1024 bytes, but for the seal."""
    path = run.checkpoint(step)
    path.mkdir(parents=True)
    (path / "adapter_model.safetensors").write_bytes(b"x" * 1024)
    facts = Facts(step, 0.4, loss=1.3, eval_loss=1.4, learning_rate=2e-4, max_steps=3525)
    write_seal(run, path, Seal(facts, time.time(), 60.0, 1, {}, {}, {}))
    return path


def begin(run: Run, first_step: int = 0) -> Session:
    """A session whose command line is this process."""
    session = run.open_session(Launch(config="configs/a.yaml", cwd=os.getcwd()))
    write_json(session.begin_file, asdict(Begin(time.time(), first_step)))
    return session


def begin_after(run: Run, before: Session, first_step: int) -> Session:
    """A further session; the one before is over."""
    end_session(before, End(Ending.PAUSED, None, None, "Ctrl+C", time.time()))
    return begin(run, first_step)


def end_session(session: Session, end: End) -> None:
    """End a session and its command line."""
    session.close(end)
    (session.path / "process-cli.json").unlink()
