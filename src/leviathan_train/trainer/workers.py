"""Data workers: they end with the trainer, and leave a signal from outside to it."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Callable
from functools import partial

from leviathan_train.system.processes import Process
from leviathan_train.system.signals import WARNINGS
from leviathan_train.trainer import upstream
from leviathan_train.trainer.protocol import TrainerLike

_PR_SET_PDEATHSIG = 1


def keep_workers(trainer: TrainerLike) -> None:
    """Let the workers of every data loader of `trainer` live as long as it does.

    torch (`_utils/signal_handling.py`) gives each a handler by which a SIGTERM from outside
    kills it, and the trainer then dies of a missing worker instead of saving. A SIGTERM of the
    trainer itself still ends them. A worker whose queue is full would outlive a trainer that
    was killed, for good (`Queue._finalize_join`): the kernel ends it with its parent.
    """
    upstream.wrap_worker_init(trainer, lambda original: partial(_begin, Process.of(), original))


def _begin(trainer: Process, original: Callable[[int], None] | None, number: int) -> None:
    """Called in the worker, after torch has set its handlers.

    The kernel watches the thread that started the worker: the trainer's main thread, or under
    forkserver (the default of Python 3.14) the server. `_follow` watches the trainer itself.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, *WARNINGS})
    threading.Thread(target=_follow, args=(trainer,), daemon=True).start()
    if original is not None:
        original(number)


def _follow(trainer: Process) -> None:
    """End this worker when the trainer says so, or when the trainer is gone."""
    while trainer.alive():
        heard = signal.sigtimedwait({signal.SIGTERM}, 5.0)
        if heard and heard.si_pid == trainer.pid:
            os._exit(0)
    os._exit(1)
