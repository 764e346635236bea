"""What would stop a run, or change its result, told before a GPU is touched.

`train` looks at the settings and the machine; `check` also compares with the checkpoint and asks
Axolotl itself.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from leviathan_train.checkpoints import store as checkpoints
from leviathan_train.checkpoints.final import finished_at
from leviathan_train.checkpoints.origin import origin_of
from leviathan_train.checkpoints.store import Checkpoint
from leviathan_train.config import data, keys
from leviathan_train.config import requirements as needs
from leviathan_train.config.base_model import model_folder
from leviathan_train.config.changes import Change, Origin, changes_since
from leviathan_train.config.effects import Effect
from leviathan_train.config.exactness import inexact
from leviathan_train.config.inputs import check_chat_template, input_faults, local_datasets
from leviathan_train.config.load import Config, load_config
from leviathan_train.config.pitfalls import Pitfall, home_paths, pitfalls
from leviathan_train.errors import LeviathanError, UsageError
from leviathan_train.launch import command, cost, mirrored, resume
from leviathan_train.launch.disk import forecast
from leviathan_train.launch.findings import Finding, Level, Topic, ok, refusal
from leviathan_train.launch.outcome import cleanup_command
from leviathan_train.launch.validation import AMPERE, Validation, validate
from leviathan_train.run.folder import Run, busy
from leviathan_train.system import files, units
from leviathan_train.system.gpu import Gpu, Nvml, visible

Compare = Callable[[Origin, Config], Sequence[Change]]
Gpus = Callable[[], tuple[Gpu, ...]]
FreeBytes = Callable[[Path], int | None]


def check(
    path: Path,
    overrides: Iterable[str] = (),
    *,
    compare: Compare = changes_since,
    ask_axolotl: Callable[[Config], Validation] | None = None,
    has_gpu: Callable[[], bool] = command.has_gpu,
    gpus: Gpus | None = None,
    free_bytes: FreeBytes = files.free_bytes,
    card: int | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Iterator[Finding]:
    """Look at everything that a start of the config depends on; nothing is changed.

    What takes no time comes first, Axolotl's own validation (seconds, in a child) last.

    Args:
        card: bytes of the GPU to judge for, instead of those that are here.
        tell: called with one line before seconds pass without a finding.
    """
    try:
        config = load_config(path, overrides)
    except UsageError as error:
        yield refusal(Topic.CONFIG, error)
        return
    yield ok(Topic.CONFIG, f"{path} can be read; the run is {config.output_dir}.")
    present = has_gpu()
    told: set[str] = set()
    for one in settings(config, has_gpu=present or card is not None):
        told.update((one.numbers or {}).get("places", ()))
        yield one
    run = Run(config.output_dir)
    found = checkpoints.scan(run)
    yield from _resume(config, run, found, compare)
    yield from machine(config, run, found, has_gpu=present, gpus=gpus, free_bytes=free_bytes)
    cards = visible((gpus or Nvml())()) if present and card is None else ()
    yield cost.gpu_memory(config, cards, card)
    yield from known_keys(config, tell)
    yield from mirrored.findings(config, run, found, tell)
    tell("Axolotl validates the config and looks at the rows: some seconds...")
    elsewhere = AMPERE if card is not None and not present else None
    answer = ask_axolotl(config) if ask_axolotl else validate(config, elsewhere)
    yield from _schema(answer)
    if answer.survey:
        yield from cost.hurting(config, answer.survey, told)
    yield cost.night(config, run, [item for item in found if item.intact], answer.survey)


def settings(config: Config, *, has_gpu: bool, seconds: float | None = None) -> Iterator[Finding]:
    """Look at what the config itself decides, the same at each start: inputs, rows, GPU or not.

    Args:
        seconds: see `data.faults`.
    """
    for one in home_paths(config):
        yield _pitfall(config, one)
    yield from _inputs(config)
    yield from _data(config, seconds)
    for one in pitfalls(config):
        yield _pitfall(config, one)
    for why, hint in inexact(config):
        yield Finding(Level.WARNING, Topic.CONFIG, f"{why}.", hint)
    try:
        needs.require_gpu(config, has_gpu=has_gpu)
    except UsageError as error:
        yield refusal(Topic.GPU, error)
        return
    if not has_gpu:
        yield ok(Topic.GPU, "No GPU here, and the config needs none: it trains on the CPU.")


def _pitfall(config: Config, one: Pitfall) -> Finding:
    level = Level.ERROR if one.fails else Level.WARNING
    return Finding(level, Topic.CONFIG, config.at(one.message), one.hint)


def machine(
    config: Config,
    run: Run,
    found: Sequence[Checkpoint],
    newer: Sequence[Checkpoint] = (),
    *,
    has_gpu: bool,
    gpus: Gpus | None = None,
    free_bytes: FreeBytes = files.free_bytes,
) -> Iterator[Finding]:
    """Look at what may be otherwise in an hour: memory of the GPUs, and room on the disk.

    Args:
        found: the run's checkpoints.
        newer: those of them that are set aside before the training.
    """
    if has_gpu:
        yield from _gpu_memory(config, gpus or Nvml())
    yield disk(config, run, found, newer, free_bytes=free_bytes)


def _inputs(config: Config) -> Iterator[Finding]:
    faults = list(input_faults(config))
    try:
        command.check_packages()
    except UsageError as error:
        faults.append(error)
    yield from (refusal(Topic.INPUTS, fault) for fault in faults)
    if faults:
        return
    base = str(config.values["base_model"])
    local = local_datasets(config)
    yield ok(Topic.INPUTS, f"Base model: {base}. Local data files: {len(local)}.")
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


def _data(config: Config, seconds: float | None) -> Iterator[Finding]:
    found = list(data.faults(config, seconds))
    for fault in found:
        numbers = {"places": [fault.place]} if fault.place else None
        yield Finding(Level.ERROR, Topic.DATA, str(fault), fault.hint, numbers=numbers)
    if not found:
        try:
            check_chat_template(config)
        except UsageError as error:
            yield refusal(Topic.DATA, error)
    local = sum(path.exists() for _, path in local_datasets(config))
    if local and seconds is None and not found:
        yield ok(Topic.DATA, f"Every row can be read (local files: {local}).")


def known_keys(config: Config, tell: Callable[[str], None]) -> Iterator[Finding]:
    """Look at the keys and values that Axolotl would drop or refuse.

    Args:
        tell: called with one line before some seconds are spent, once for each Axolotl.
    """
    try:
        found = keys.problems(config, tell)
    except LeviathanError as error:
        yield Finding(Level.WARNING, Topic.KEYS, error.message, error.hint)
        return
    for problem in found:
        maybe = problem.kind is keys.Kind.MAYBE_OF_PLUGIN
        level = Level.WARNING if maybe else Level.ERROR
        topic = Topic.KEYS if problem.may_pass else Topic.SCHEMA
        yield Finding(level, topic, problem.message, problem.hint)
    if not found:
        yield ok(Topic.KEYS, "Axolotl knows every key, and no value is of a wrong kind.")


def _resume(
    config: Config, run: Run, found: list[Checkpoint], compare: Compare
) -> Iterator[Finding]:
    if session := run.live_session():
        yield refusal(Topic.RESUME, busy(run, session))
    try:
        offer = resume.choose(run, config, "auto", found)
    except LeviathanError as error:
        yield refusal(Topic.RESUME, error)
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
        yield ok(Topic.RESUME, "No checkpoint yet: the run starts from the base model.")
        return
    step = finished_at(run, found)
    if step is not None and not resume.trains_longer(config, checkpoint):
        yield Finding(
            Level.WARNING,
            Topic.RESUME,
            f"{run.name} is already finished, at step {step}.",
            "Train longer: raise num_epochs or max_steps.  Start over: --resume never",
        )
    else:
        yield ok(Topic.RESUME, f"The run resumes from {checkpoint.name}, which is intact.")
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
    old, new = change.shown
    level = _LEVELS.get(change.effect, Level.OK)
    return Finding(
        level,
        Topic.RESUME,
        f"{change.key} changed from {old} to {new}: {change.effect}: {change.why}.",
        _HINTS[level] if change.needs_yes or level is Level.ERROR else None,
    )


def _gpu_memory(config: Config, gpus: Gpus) -> Iterator[Finding]:
    found = visible(gpus())
    if not found:
        yield ok(Topic.GPU, "A GPU is there; its memory cannot be read (no NVML).")
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
            yield ok(Topic.GPU, f"{free}.")


def disk(
    config: Config,
    run: Run,
    found: Sequence[Checkpoint],
    newer: Sequence[Checkpoint] = (),
    *,
    free_bytes: FreeBytes = files.free_bytes,
) -> Finding:
    """Look at the room on the disk; without any for one more checkpoint it is an error.

    Args:
        found: the run's checkpoints.
        newer: those of them that are set aside before the training.
    """
    free = free_bytes(run.path)
    if free is None:
        return ok(Topic.DISK, f"The file system of {run.path} does not tell what is free.")
    kept = [item for item in found if item not in newer]
    coming = forecast(config, run, found, kept, free)
    if coming is None:
        unknown = "the size of a checkpoint is not known before the first"
        return ok(Topic.DISK, f"{units.size(free)} free; {unknown}.")
    numbers = asdict(coming)
    if coming.full_after is None:
        return ok(Topic.DISK, coming.told(), numbers)
    if not coming.is_refused:
        hint = "Free some space, or lower save_total_limit."
        return Finding(Level.WARNING, Topic.DISK, coming.told(), hint, numbers=numbers)
    what = "--keep 1" if len(found) > 1 else "--superseded" if run.superseded.is_dir() else ""
    hint = f"Free some space on the disk of {run.path}."
    if what:
        hint = f"{hint[:-1]}, for example with:  {cleanup_command(run, what)}"
    return Finding(Level.ERROR, Topic.DISK, coming.told(), hint, numbers=numbers)


def _schema(found: Validation) -> Iterator[Finding]:
    for line in found.errors:
        yield Finding(Level.ERROR, Topic.SCHEMA, f"Axolotl refuses the config: {line}.")
    for line in found.warnings:
        yield Finding(Level.WARNING, Topic.SCHEMA, f"Axolotl warns: {line.rstrip('.')}.")
    if not found.errors:
        yield ok(Topic.SCHEMA, "Axolotl's own validation accepts the config.")
