"""What would stop a run, or change its result, told before a GPU is touched.

`train` looks at the settings and the machine; `check` also compares with the checkpoint and asks
Axolotl itself.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from leviathan_train.checkpoints import store as checkpoints
from leviathan_train.checkpoints.final import finished_at
from leviathan_train.checkpoints.origin import origin_of
from leviathan_train.checkpoints.store import Checkpoint
from leviathan_train.config import keys
from leviathan_train.config import requirements as needs
from leviathan_train.config.base_model import model_folder
from leviathan_train.config.changes import Change, Origin, changes_since
from leviathan_train.config.effects import Effect
from leviathan_train.config.inputs import check_inputs, local_datasets
from leviathan_train.config.load import Config, load_config
from leviathan_train.config.redact import redact
from leviathan_train.errors import DONE, USAGE, LeviathanError, UsageError
from leviathan_train.launch import command, resume
from leviathan_train.launch.disk import forecast
from leviathan_train.launch.outcome import cleanup_command
from leviathan_train.launch.validation import Validation, validate
from leviathan_train.run.folder import Run, busy
from leviathan_train.system import files, units
from leviathan_train.system.gpu import Gpu, Nvml, visible


class Level(StrEnum):
    """What a finding means for the run: it is stopped, its result may change, or all is well."""

    ERROR = "error"
    WARNING = "warning"
    OK = "ok"


class Topic(StrEnum):
    """What was looked at."""

    CONFIG = "config"
    INPUTS = "inputs"
    KEYS = "keys"
    RESUME = "resume"
    GPU = "gpu"
    DISK = "disk"
    SCHEMA = "schema"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        hint: what to do about it.
        status: of an error, the exit status with which `train` would end.
    """

    level: Level
    topic: Topic
    message: str
    hint: str | None = None
    status: int = USAGE


Compare = Callable[[Origin, Config], Sequence[Change]]
Gpus = Callable[[], tuple[Gpu, ...]]
FreeBytes = Callable[[Path], int | None]


def check(
    path: Path,
    overrides: Iterable[str] = (),
    *,
    compare: Compare = changes_since,
    ask_axolotl: Callable[[Config], Validation] = validate,
    has_gpu: Callable[[], bool] = command.has_gpu,
    gpus: Gpus | None = None,
    free_bytes: FreeBytes | None = None,
) -> Iterator[Finding]:
    """Look at everything that a start of the config depends on; nothing is changed.

    What takes no time comes first, Axolotl's own validation (seconds, in a child) last.
    """
    try:
        config = load_config(path, overrides)
    except UsageError as error:
        yield _refusal(Topic.CONFIG, error)
        return
    yield _ok(Topic.CONFIG, f"{path} can be read; the run is {config.output_dir}.")
    present = has_gpu()
    yield from settings(config, has_gpu=present)
    run = Run(config.output_dir)
    found = checkpoints.scan(run)
    yield from _resume(config, run, found, compare)
    yield from machine(config, run, found, has_gpu=present, gpus=gpus, free_bytes=free_bytes)
    yield from _schema(ask_axolotl(config))


def settings(config: Config, *, has_gpu: bool) -> Iterator[Finding]:
    """Look at what the config itself decides, the same at each start: inputs, keys, GPU or not."""
    yield from _inputs(config)
    yield from _keys(config)
    try:
        needs.require_gpu(config, has_gpu=has_gpu)
    except UsageError as error:
        yield _refusal(Topic.GPU, error)
        return
    if not has_gpu:
        yield _ok(Topic.GPU, "No GPU here, and the config needs none: it trains on the CPU.")


def machine(
    config: Config,
    run: Run,
    found: Sequence[Checkpoint],
    newer: Sequence[Checkpoint] = (),
    *,
    has_gpu: bool,
    gpus: Gpus | None = None,
    free_bytes: FreeBytes | None = None,
) -> Iterator[Finding]:
    """Look at what may be otherwise in an hour: memory of the GPUs, and room on the disk.

    Args:
        found: the run's checkpoints.
        newer: those of them that are set aside before the training.
    """
    if has_gpu:
        yield from _gpu_memory(config, gpus or Nvml())
    yield disk(config, run, found, newer, free_bytes=free_bytes)


def exit_status(findings: Iterable[Finding]) -> int:
    """The exit status of the first error, which is the one that a start would end with."""
    return next((one.status for one in findings if one.level is Level.ERROR), DONE)


def document(path: Path, findings: Sequence[Finding]) -> dict[str, Any]:
    """The findings as `check --json` prints them."""
    return {
        "config": str(path),
        "findings": [
            {"level": one.level, "topic": one.topic, "message": one.message, "hint": one.hint}
            for one in findings
        ],
        "ok": exit_status(findings) == DONE,
    }


def _ok(topic: Topic, message: str) -> Finding:
    return Finding(Level.OK, topic, message)


def _refusal(topic: Topic, error: LeviathanError) -> Finding:
    return Finding(Level.ERROR, topic, error.message, error.hint, error.exit_code)


def _inputs(config: Config) -> Iterator[Finding]:
    try:
        check_inputs(config)
        command.check_packages()
    except UsageError as error:
        yield _refusal(Topic.INPUTS, error)
        return
    base = str(config.values["base_model"])
    local = local_datasets(config)
    yield _ok(Topic.INPUTS, f"Base model: {base}. Local data files: {len(local)}.")
    if model_folder(base) is None:
        yield Finding(
            Level.WARNING,
            Topic.INPUTS,
            f"base_model {base} is not on this machine yet: it is downloaded at the start.",
            f"Download it now with:  hf download {base}",
        )
    implementation = needs.attention(config)
    package = needs.ATTENTION_PACKAGES.get(str(implementation))
    if package and importlib.util.find_spec(package) is None:
        yield Finding(
            Level.ERROR,
            Topic.INPUTS,
            f"attn_implementation: {implementation} needs the package {package}, which is not"
            " installed.",
            "Install it, or use the one that comes with torch:  attn_implementation: sdpa",
        )


def _keys(config: Config) -> Iterator[Finding]:
    try:
        found = keys.problems(config)
    except LeviathanError as error:
        yield Finding(Level.WARNING, Topic.KEYS, error.message, error.hint)
        return
    for problem in found:
        maybe = problem.kind is keys.Kind.MAYBE_OF_PLUGIN
        level = Level.WARNING if maybe else Level.ERROR
        topic = Topic.KEYS if problem.may_pass else Topic.SCHEMA
        yield Finding(level, topic, problem.message, problem.hint)
    if not found:
        yield _ok(Topic.KEYS, "Axolotl knows every key, and no value is of a wrong kind.")


def _resume(
    config: Config, run: Run, found: list[Checkpoint], compare: Compare
) -> Iterator[Finding]:
    if session := run.live_session():
        yield _refusal(Topic.RESUME, busy(run, session))
    try:
        offer = resume.choose(run, config, "auto", found)
    except LeviathanError as error:
        yield _refusal(Topic.RESUME, error)
        return
    for damaged in offer.damaged:
        yield Finding(
            Level.WARNING,
            Topic.RESUME,
            f"{damaged.name} is not intact: {damaged.reason}.",
            "It is skipped, and will be set aside.",
        )
    checkpoint = offer.checkpoint
    if checkpoint is None:
        yield _ok(Topic.RESUME, "No checkpoint yet: the run starts from the base model.")
        return
    step = finished_at(run, found)
    if step is not None and not resume.trains_longer(config, checkpoint):
        yield Finding(
            Level.WARNING,
            Topic.RESUME,
            f"{run.name} is already finished, at step {step}.",
            "Train longer: raise num_epochs or max_steps.  Start over: --resume never",
        )
    yield _ok(Topic.RESUME, f"The run resumes from {checkpoint.name}, which is intact.")
    for change in compare(origin_of(checkpoint), config):
        yield _changed(change)


_LEVELS: Mapping[Effect, Level] = {
    Effect.REFUSED: Level.ERROR,
    Effect.ORDER: Level.WARNING,
    Effect.ASKED: Level.WARNING,
}
_HINTS: Mapping[Level, str] = {
    Level.ERROR: "Restore it, or start another run with:  --set output_dir=work/training/NAME",
    Level.WARNING: "Restore it, or accept it with --yes.",
}


def _changed(change: Change) -> Finding:
    old, new = (redact({change.key: it})[change.key] for it in (change.old, change.new))
    level = _LEVELS.get(change.effect, Level.OK)
    return Finding(
        level,
        Topic.RESUME,
        f"{change.key} changed from {_short(old)} to {_short(new)}: {change.effect}: {change.why}.",
        _HINTS[level] if change.needs_yes or level is Level.ERROR else None,
    )


def _short(value: Any) -> str:
    text = "not set" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _gpu_memory(config: Config, gpus: Gpus) -> Iterator[Finding]:
    found = visible(gpus(), os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    if not found:
        yield _ok(Topic.GPU, "A GPU is there; its memory cannot be read (no NVML).")
    weights = needs.weights_bytes(config)
    spread = any(config.values.get(key) for key in ("deepspeed", "fsdp", "fsdp_config"))
    for gpu in found:
        holders = gpu.holders()
        total = units.size(gpu.total_bytes)
        free = f"GPU {gpu.index}, {gpu.name}: {units.size(gpu.free_bytes)} of {total} free"
        if weights and gpu.free_bytes < weights and not spread:
            yield Finding(
                Level.ERROR,
                Topic.GPU,
                f"{free}, but the weights of the base model alone take {units.size(weights)}.",
                f"Free it: {holders}."
                if holders
                else "Use a smaller base model, or load_in_4bit: true.",
            )
        elif holders:
            yield Finding(
                Level.WARNING,
                Topic.GPU,
                f"{free}; held by {holders}.",
                "Training beside it may run out of memory, or slow down.",
            )
        else:
            yield _ok(Topic.GPU, f"{free}.")


def disk(
    config: Config,
    run: Run,
    found: Sequence[Checkpoint],
    newer: Sequence[Checkpoint] = (),
    *,
    free_bytes: FreeBytes | None = None,
) -> Finding:
    """Look at the room on the disk; without any for one more checkpoint it is an error.

    Args:
        found: the run's checkpoints.
        newer: those of them that are set aside before the training.
    """
    free = (free_bytes or files.free_bytes)(run.path)
    if free is None:
        return _ok(Topic.DISK, f"The file system of {run.path} does not tell what is free.")
    kept = [item for item in found if item not in newer]
    coming = forecast(config, run, found, kept, free)
    if coming is None:
        unknown = "the size of a checkpoint is not known before the first"
        return _ok(Topic.DISK, f"{units.size(free)} free; {unknown}.")
    if coming.full_after is None:
        return _ok(Topic.DISK, coming.told())
    if not coming.is_refused:
        hint = "Free some space, or lower save_total_limit."
        return Finding(Level.WARNING, Topic.DISK, coming.told(), hint)
    what = "--keep 1" if len(found) > 1 else "--superseded" if run.superseded.is_dir() else ""
    hint = f"Free some space on the disk of {run.path}."
    if what:
        hint = f"{hint[:-1]}, for example with:  {cleanup_command(run, what)}"
    return Finding(Level.ERROR, Topic.DISK, coming.told(), hint)


def _schema(found: Validation) -> Iterator[Finding]:
    for line in found.errors:
        yield Finding(Level.ERROR, Topic.SCHEMA, f"Axolotl refuses the config: {line}.")
    for line in found.warnings:
        yield Finding(Level.WARNING, Topic.SCHEMA, f"Axolotl warns: {line.rstrip('.')}.")
    if not found.errors:
        yield _ok(Topic.SCHEMA, "Axolotl's own validation accepts the config.")
