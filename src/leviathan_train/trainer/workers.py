"""Data workers that leave a SIGTERM to the trainer, as one to every process at once sends."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from typing import Any


def keep_workers(trainer: Any) -> None:
    """Let the workers of every data loader of `trainer` live until it ends them.

    torch 2.13 (`_utils/worker.py`) gives each a handler by which a SIGTERM from outside
    kills it, and the trainer then dies of a missing worker instead of saving. A SIGTERM of the
    trainer itself still ends them.
    """
    original = trainer._get_dataloader

    def get(*args: Any, **kwargs: Any) -> Any:
        loader = original(*args, **kwargs)
        for part in (loader, getattr(loader, "base_dataloader", None)):
            if part is not None:
                part.worker_init_fn = partial(_begin, part.worker_init_fn)
        return loader

    trainer._get_dataloader = get


def _begin(original: Callable[[int], None] | None, number: int) -> None:
    """Called in the worker, after torch has set its handlers."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_obey_the_trainer, daemon=True).start()
    if original is not None:
        original(number)


def _obey_the_trainer() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
