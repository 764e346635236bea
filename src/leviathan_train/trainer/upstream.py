"""The private and semi-private names of Axolotl, transformers, accelerate and torch that a training
needs, each behind a function named for what it does. Nothing else in the trainer touches them.

`check_upstream` names what is missing in the installed versions before a step is trained.
Versions seen: axolotl 0.19 to 0.21 with transformers 5.16 to 5.20 and accelerate 1.13 to 1.15.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer
from transformers.trainer_utils import has_length

from leviathan_train.errors import UsageError
from leviathan_train.trainer.protocol import TrainerLike

TESTED = ((0, 19), (0, 21))
"""The first and the last minor version of Axolotl that the tests run on."""


# -- are the names there? --------------------------------------------------------------


class UpstreamError(UsageError):
    """The installed libraries lack something that leviathan stands on."""


@dataclass(frozen=True)
class Hook:
    """A function of a library that is called, replaced or wrapped here.

    Attributes:
        owner: module, and class if it is a method, e.g. `transformers.Trainer`.
        parameters: names that its signature must have, in this order, at its beginning.
    """

    owner: str
    name: str
    parameters: tuple[str, ...] = ()


HOOKS = (
    Hook("transformers.Trainer", "_save_checkpoint", ("self", "model", "trial")),
    Hook("transformers.Trainer", "_evaluate", ("self", "trial", "ignore_keys_for_eval")),
    Hook("transformers.Trainer", "_determine_best_metric", ("self", "metrics", "trial")),
    Hook(
        "transformers.Trainer",
        "_init_training_state",
        ("self", "max_steps", "num_update_steps_per_epoch"),
    ),
    Hook("transformers.Trainer", "_run_epoch", ("self",)),
    Hook("transformers.Trainer", "_get_dataloader", ("self",)),
    Hook("transformers.Trainer", "_get_train_sampler", ("self",)),
    Hook("transformers.Trainer", "create_scheduler", ("self", "num_training_steps", "optimizer")),
    Hook("transformers.trainer_callback.TrainerState", "compute_steps", ("self", "args")),
    Hook("axolotl.train", "setup_signal_handler", ("cfg", "model")),
    Hook("axolotl.common.const", "DEFAULT_DATASET_PREPARED_PATH"),
    Hook("axolotl.utils.data.lock", "LOCK_FILE_NAME"),
    Hook("axolotl.integrations.base.BasePlugin", "create_lr_scheduler", ("self", "cfg", "trainer")),
    Hook("axolotl.integrations.base.BasePlugin", "post_trainer_create", ("self", "cfg", "trainer")),
    Hook("axolotl.integrations.base.BasePlugin", "load_datasets", ("self", "cfg")),
)

_SUMS = ("_tr_loss", "_total_loss_scalar", "_globalstep_last_logged")
"""Attributes of a Trainer that exist once training has begun."""


def check_upstream() -> str | None:
    """Check that every hook is there with the signature that it had.

    Returns:
        A line for the user if this Axolotl has not been tested yet; None if it has.

    Raises:
        UpstreamError: naming the first hook that is missing or has another signature.
    """
    for hook in HOOKS:
        if fault := _fault(hook):
            installed = f"axolotl {_version('axolotl')}, transformers {_version('transformers')}"
            hint = "Install versions that are supported:  pip install leviathan-train"
            raise UpstreamError(f"{installed}: {fault}.", hint)
    minor = tuple(int(part) for part in re.findall(r"\d+", _version("axolotl"))[:2])
    if TESTED[0] <= minor <= TESTED[1]:
        return None
    return f"axolotl {_version('axolotl')} has not been tested yet; every hook is as it was."


def _fault(hook: Hook) -> str:
    """What is wrong with a hook; empty if nothing is."""
    try:
        found = getattr(_import(hook.owner), hook.name)
    except (ImportError, AttributeError):
        return f"{hook.owner}.{hook.name} is missing"
    if hook.parameters:
        names = tuple(inspect.signature(found).parameters)
        if names[: len(hook.parameters)] != hook.parameters:
            return f"{hook.owner}.{hook.name} takes {', '.join(names)}"
    return ""


def _import(path: str) -> Any:
    """A module, or a class in a module."""
    try:
        return importlib.import_module(path)
    except ImportError:
        module, _, name = path.rpartition(".")
        return getattr(importlib.import_module(module), name)


def _version(package: str) -> str:
    return importlib.metadata.version(package)


def check_training(trainer: TrainerLike) -> None:
    """Check what exists only once training has begun; call it before the first step.

    Raises:
        UpstreamError: naming what is missing.
    """
    if missing := [name for name in _SUMS if not hasattr(trainer, name)]:
        raise UpstreamError(f"transformers.Trainer.{missing[0]} is missing.")


# -- what the plugin switches off or replaces ------------------------------------------


def keep_signals() -> None:
    """Keep Axolotl from taking SIGINT: its handler would write only the adapter, and exit 0.

    axolotl.train calls `setup_signal_handler` after `post_trainer_create`.
    """
    import axolotl.train

    axolotl.train.setup_signal_handler = lambda cfg, model: None


def keep_4bit_weights(trainer: TrainerLike) -> None:
    """Keep bitsandbytes from packing 4-bit weights anew for an evaluation on a CPU.

    Where the CPU has avx512_bf16, `Linear4bit.forward` does so without gradients, and the way
    back is not exact: an evaluation would change what is trained.
    """
    for module in trainer.model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def config_of_log_record(message: Any) -> str | None:
    """The JSON of the config, if a log record of `axolotl.cli.config` holds Axolotl's dump."""
    if isinstance(message, str) and message.startswith("config:"):
        return message.partition("\n")[2]
    return None


# -- saving ----------------------------------------------------------------------------

Save = Callable[..., Any]


def wrap_save(trainer: Any, wrapper: Callable[[Save], Save]) -> None:
    """Replace the trainer's `_save_checkpoint` by `wrapper` of it."""
    trainer._save_checkpoint = wrapper(trainer._save_checkpoint)


def save_checkpoint(trainer: Any) -> None:
    """Write a full checkpoint of the current step, through what `wrap_save` put around it."""
    trainer._save_checkpoint(trainer.model, trial=None)


def evaluate(trainer: Any) -> None:
    """Evaluate as transformers does between two steps: logged, and the best metric tracked."""
    metrics = trainer._evaluate(None, None)
    trainer._determine_best_metric(metrics=metrics, trial=None)


# -- loss sums -------------------------------------------------------------------------


def loss_sums(trainer: Any) -> list[float]:
    """This rank's running sums: loss since the last log, loss until then, step of that log."""
    return [
        float(trainer._tr_loss.item()),
        float(trainer._total_loss_scalar),
        float(trainer._globalstep_last_logged),
    ]


def set_loss_sums(trainer: Any, sums: Sequence[float]) -> None:
    """Put back what `loss_sums` gave, so that the next logged loss averages the same steps.

    transformers 5.20 divides the final sum by the steps since `_initial_global_step`: the
    sum that is put back began at step 0.
    """
    trainer._tr_loss.fill_(sums[0])
    trainer._total_loss_scalar = sums[1]
    trainer._globalstep_last_logged = int(sums[2])
    if hasattr(trainer, "_initial_global_step"):
        trainer._initial_global_step = 0


# -- the place in the data -------------------------------------------------------------


def train_batches(trainer: TrainerLike) -> int:
    """Batches of one rank in an epoch; 0 where rows are streamed and nobody knows."""
    loader = trainer.callback_handler.train_dataloader
    return len(loader) * trainer.get_sp_size() if has_length(loader) else 0


def start_at(trainer: Any, place: Callable[[int], tuple[int, int] | None]) -> None:
    """Let training start at a place of our own.

    transformers (`_init_training_state`) divides `global_step` by the steps that an epoch
    should have, and so skips too few or too many batches of packed rows.

    Args:
        place: gets the steps of an epoch; gives the epochs and the batches to skip, or None to
            leave transformers' own reckoning.
    """
    original = trainer._init_training_state

    def init(max_steps: int, steps_per_epoch: int, *args: Any) -> tuple[int, int]:
        own: tuple[int, int] = original(max_steps, steps_per_epoch, *args)
        return place(steps_per_epoch) or own

    trainer._init_training_state = init


def skip_the_loop(trainer: Any) -> None:
    """Train no step: the checkpoint is of the last one already, but the loop would add one."""
    trainer._run_epoch = lambda **kwargs: None


def set_sampler_epoch(loader: Any, epoch: int) -> None:
    """Bring every sampler of a loader to `epoch`, as an epoch that starts at its beginning does.

    Within an epoch, accelerate's `SkipBatchSampler` hides the samplers from `set_epoch`, and
    Axolotl's `MultipackBatchSampler` would go on with batches that counting the epoch had left
    in its cache. From transformers 5.17 on, `_run_epoch` itself reaches a sampler that is
    wrapped for its rank; before, every epoch replays the same packs on several ranks. A resume
    does whichever the installed version does in an epoch that was not interrupted.
    """
    if hasattr(loader, "set_epoch"):
        loader.set_epoch(epoch)
    sampler: Any = getattr(loader, "batch_sampler", None)
    if hasattr(sampler, "set_epoch"):
        sampler.set_epoch(epoch)
    inner: Any = getattr(sampler, "batch_sampler", None)
    if hasattr(inner, "set_epoch") and _run_epoch_reaches_wrapped_samplers():
        inner.set_epoch(epoch)


def _run_epoch_reaches_wrapped_samplers() -> bool:
    """Whether `Trainer._run_epoch` looks for the `batch_sampler` of a batch sampler."""
    return "batch_sampler" in Trainer._run_epoch.__code__.co_consts


def wrap_train_sampler(trainer: Any, wrapper: Callable[[Any], Any]) -> None:
    """Replace the sampler of the training rows by `wrapper` of it."""
    original = trainer._get_train_sampler

    def get(*args: Any, **kwargs: Any) -> Any:
        return wrapper(original(*args, **kwargs))

    trainer._get_train_sampler = get


def wrap_worker_init(
    trainer: Any, wrapper: Callable[[Callable[[int], None] | None], Callable[[int], None]]
) -> None:
    """Replace the function that each data worker begins with by `wrapper` of it."""
    original = trainer._get_dataloader

    def get(*args: Any, **kwargs: Any) -> Any:
        loader = original(*args, **kwargs)
        for part in (loader, getattr(loader, "base_dataloader", None)):
            if part is not None:
                part.worker_init_fn = wrapper(part.worker_init_fn)
        return loader

    trainer._get_dataloader = get


# -- schedules -------------------------------------------------------------------------


def build_schedule(trainer: Any, max_steps: int, optimizer: Any) -> Any:
    """The config's schedule on another optimizer; the trainer's own is left as it is."""
    loaded, created = trainer.lr_scheduler, trainer._created_lr_scheduler
    trainer.lr_scheduler = None
    try:
        return trainer.create_scheduler(max_steps, optimizer=optimizer) or trainer.lr_scheduler
    finally:
        trainer.lr_scheduler, trainer._created_lr_scheduler = loaded, created


def advance_schedule(scheduler: Any, step: int) -> None:
    """Bring a fresh schedule to `step`.

    A LambdaLR depends on nothing but its step: it is set to the step before and moved once.
    """
    if type(scheduler) is torch.optim.lr_scheduler.LambdaLR and step > 0:
        scheduler.last_epoch, scheduler._step_count = step - 1, step
        scheduler.step()
    else:
        for _ in range(step):
            scheduler.step()


SCHEDULE_INTERNALS = frozenset(
    {"lr_lambdas", "verbose", "_is_initial", "_get_lr_called_within_step"}
)
"""Keys of a scheduler's state (torch.optim.lr_scheduler) that say nothing of the schedule."""


# -- prepared rows ---------------------------------------------------------------------


def prepared_folder(cfg: Any) -> Path:
    """Where Axolotl keeps tokenised rows (axolotl.utils.data.shared)."""
    from axolotl.common.const import DEFAULT_DATASET_PREPARED_PATH

    return Path(str(cfg.dataset_prepared_path or DEFAULT_DATASET_PREPARED_PATH))


def prepared_lock(folder: Path) -> Path:
    """The lock that Axolotl holds while it writes into `folder`."""
    from axolotl.utils.data.lock import LOCK_FILE_NAME

    return folder / str(LOCK_FILE_NAME)


# -- the process -----------------------------------------------------------------------


def run_exit_handlers() -> None:
    """Run what was registered by `atexit`, before a process is left without its teardown."""
    import atexit

    atexit._run_exitfuncs()
