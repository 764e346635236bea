"""What would stop a run, or change its result, told before a GPU is touched."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from leviathan_train.checkpoints import store as checkpoints
from leviathan_train.checkpoints.store import Checkpoint
from leviathan_train.config import changes, keys
from leviathan_train.config import load as configs
from leviathan_train.config import requirements as needs
from leviathan_train.config.changes import Change
from leviathan_train.config.load import Config
from leviathan_train.errors import LeviathanError, UsageError
from leviathan_train.launch import follow as launch
from leviathan_train.launch import resume
from leviathan_train.run.folder import Run, busy
from leviathan_train.system.gpu import Gpu, Nvml, gigabytes, visible

KEPT_BY_DEFAULT = 4
"""Axolotl's `save_total_limit` where the config has none."""
VALIDATION_TIMEOUT = 300.0

Level = Literal["error", "warning", "ok"]
Compare = Callable[[Config, Checkpoint], Sequence[Change]]
Validate = Callable[[Config], "Verdict"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: `error` stops the run, `warning` may change its result, `ok` is as it should be.
        topic: config, inputs, keys, resume, gpu, disk, or schema.
        hint: what to do about it.
    """

    level: Level
    topic: str
    message: str
    hint: str | None = None


@dataclass(frozen=True)
class Verdict:
    """What Axolotl's own validation said, a line each."""

    errors: Sequence[str] = ()
    warnings: Sequence[str] = ()


Gpus = Callable[[], tuple[Gpu, ...]]


def check(
    path: Path,
    overrides: Iterable[str] = (),
    *,
    compare: Compare = changes.compare,
    validate: Validate | None = None,
    gpus: Gpus | None = None,
    has_gpu: Callable[[], bool] = launch.has_gpu,
    free_bytes: Callable[[Path], int] | None = None,
) -> Iterator[Finding]:
    """Look at everything that a start of the config depends on; nothing is changed.

    What takes no time comes first, Axolotl's own validation (seconds, in a child) last.
    """
    try:
        config = configs.load(path, overrides)
    except UsageError as error:
        yield Finding("error", "config", error.message, error.hint)
        return
    yield Finding("ok", "config", f"{path} can be read; the run is {config.output_dir}.")
    yield from _inputs(config)
    yield from _keys(config)
    run = Run(config.output_dir)
    found = checkpoints.scan(run)
    yield from _resume(config, run, found, compare)
    yield from _gpu(config, has_gpu(), gpus or Nvml())
    yield from _disk(config, run, found, free_bytes or _free_bytes)
    yield from _schema((validate or run_validation)(config))


def is_ok(findings: Iterable[Finding]) -> bool:
    """Whether nothing stops the run."""
    return all(finding.level != "error" for finding in findings)


def document(path: Path, findings: Sequence[Finding]) -> dict[str, Any]:
    """The findings as `check --json` prints them."""
    return {
        "config": str(path),
        "findings": [
            {"level": one.level, "topic": one.topic, "message": one.message, "hint": one.hint}
            for one in findings
        ],
        "ok": is_ok(findings),
    }


def _inputs(config: Config) -> Iterator[Finding]:
    try:
        configs.check_inputs(config)
        launch.check_packages()
    except UsageError as error:
        yield Finding("error", "inputs", error.message, error.hint)
        return
    base = str(config.values["base_model"])
    local = config.local_datasets()
    yield Finding("ok", "inputs", f"Base model {base} and {len(local)} local data files are named.")
    if configs.model_folder(base) is None:
        yield Finding(
            "warning",
            "inputs",
            f"base_model {base} is not on this machine yet: it is fetched at the start.",
            f"Fetch it before:  hf download {base}",
        )
    implementation = needs.attention(config)
    package = needs.ATTENTION_PACKAGES.get(str(implementation))
    if package and not _is_installed(package):
        yield Finding(
            "error",
            "inputs",
            f"attn_implementation: {implementation} needs the package {package}, which is not"
            " installed.",
            "Install it, or take the one that comes with torch:  attn_implementation: sdpa",
        )


def _keys(config: Config) -> Iterator[Finding]:
    try:
        found = keys.problems(config)
    except LeviathanError as error:
        yield Finding("warning", "keys", error.message, error.hint)
        return
    for problem in found:
        maybe = problem.kind is keys.Kind.MAYBE_OF_PLUGIN
        yield Finding("warning" if maybe else "error", "keys", problem.message, problem.hint)
    if not found:
        yield Finding("ok", "keys", "Axolotl knows every key, and no value is of a wrong kind.")


def _resume(
    config: Config, run: Run, found: list[Checkpoint], compare: Compare
) -> Iterator[Finding]:
    if session := run.live_session():
        error = busy(run, session)
        yield Finding("error", "resume", error.message, error.hint)
    try:
        offer = resume.choose(run, config, "auto", found)
    except LeviathanError as error:
        yield Finding("error", "resume", error.message, error.hint)
        return
    for damaged in offer.damaged:
        yield Finding(
            "warning",
            "resume",
            f"{damaged.name} is not intact: {damaged.reason}.",
            "It is passed over; it will be set aside.",
        )
    checkpoint = offer.checkpoint
    if checkpoint is None:
        yield Finding("ok", "resume", "No checkpoint yet: the run starts from the base model.")
        return
    step = resume.finished_at(run, found)
    if step is not None and not resume.trains_longer(config, checkpoint):
        yield Finding(
            "warning",
            "resume",
            f"{run.name} is already finished, at step {step}.",
            "Train on: raise num_epochs or max_steps.  Start over: --resume never",
        )
    yield Finding("ok", "resume", f"The run goes on from {checkpoint.name}, which is intact.")
    levels: dict[str, Level] = {"refused": "error", "takes effect": "ok"}
    hints = {
        "refused": "Restore it, or start another run with:  --set output_dir=work/training/NAME",
        "changes the data order": "Restore it, or agree with --yes.",
        "asked": "Restore it, or agree with --yes.",
    }
    for change in compare(config, checkpoint):
        old, new = (configs.redact({change.key: it})[change.key] for it in (change.old, change.new))
        yield Finding(
            levels.get(change.effect, "warning"),
            "resume",
            f"{change.key} changed from {_short(old)} to {_short(new)}: {change.effect}:"
            f" {change.why}.",
            hints.get(change.effect),
        )


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _is_installed(package: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(package) is not None


def _gpu(config: Config, present: bool, gpus: Gpus) -> Iterator[Finding]:
    if not present:
        try:
            needs.require_gpu(config, has_gpu=False)
        except UsageError as error:
            yield Finding("error", "gpu", error.message, error.hint)
        else:
            yield Finding(
                "ok", "gpu", "No GPU here, and the config needs none: it trains on the CPU."
            )
        return
    found = visible(gpus(), os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    if not found:
        yield Finding("ok", "gpu", "A GPU is there; its memory cannot be read (no NVML).")
    weights = needs.weights_bytes(config)
    spread = any(config.values.get(key) for key in ("deepspeed", "fsdp", "fsdp_config"))
    for gpu in found:
        holders = gpu.holders()
        total = gigabytes(gpu.total_bytes)
        free = f"GPU {gpu.index}, {gpu.name}: {gigabytes(gpu.free_bytes)} of {total} free"
        if weights and gpu.free_bytes < weights and not spread:
            yield Finding(
                "error",
                "gpu",
                f"{free}, but the weights of the base model alone take {gigabytes(weights)}.",
                f"Free it: {holders}."
                if holders
                else "Take a smaller base, or load_in_4bit: true.",
            )
        elif holders:
            yield Finding(
                "warning",
                "gpu",
                f"{free}; held by {holders}.",
                "Training may run out of memory, or slow down, beside it.",
            )
        else:
            yield Finding("ok", "gpu", f"{free}.")


def _disk(
    config: Config, run: Run, found: list[Checkpoint], free_bytes: Callable[[Path], int]
) -> Iterator[Finding]:
    limit = configs.normalise(config.values.get("save_total_limit"))
    count = (limit if isinstance(limit, int) and limit > 0 else KEPT_BY_DEFAULT) + 1
    known = [item for item in found if item.intact]
    seen = max((item.bytes for item in known), default=None)
    size = seen or needs.checkpoint_bytes(config)
    free = free_bytes(run.path)
    if size is None:
        yield Finding(
            "ok",
            "disk",
            f"{gigabytes(free)} free; how large a checkpoint is cannot be told before the first.",
        )
        return
    needed = max(count * size - sum(item.bytes for item in known), size)
    source = "as seen in this run" if seen else "estimated"
    more = " more" if known else ""
    message = (
        f"{gigabytes(free)} free; {count} checkpoints of {gigabytes(size)} ({source}) need"
        f" {gigabytes(needed)}{more}"
    )
    if free >= needed:
        yield Finding("ok", "disk", f"{message}.")
    else:
        yield Finding(
            "error" if seen or free < size else "warning",
            "disk",
            f"{message}: the disk would be full.",
            "Free some space, or lower save_total_limit.",
        )


def _free_bytes(path: Path) -> int:
    """What is free where `path` is, or will be."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def run_validation(config: Config) -> Verdict:
    """Have Axolotl validate the config, as the trainer would see it, in a child process."""
    values = {**config.values, "plugins": config.plugins}
    argv = [sys.executable, "-m", "leviathan_train.jobs.validate", "-"]
    try:
        done = subprocess.run(
            argv,
            input=json.dumps({"config": values}, default=str),
            capture_output=True,
            text=True,
            timeout=VALIDATION_TIMEOUT,
            env=os.environ | {"AXOLOTL_DO_NOT_TRACK": os.environ.get("AXOLOTL_DO_NOT_TRACK", "1")},
        )
    except subprocess.TimeoutExpired:
        return Verdict([f"Axolotl's validation did not end within {VALIDATION_TIMEOUT:.0f} s"])
    try:
        answer = json.loads(done.stdout)
        return Verdict(answer["errors"], answer["warnings"])
    except (ValueError, KeyError, TypeError):
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        return Verdict([f"Axolotl's validation failed (exit {done.returncode}): {last}"])


def _schema(verdict: Verdict) -> Iterator[Finding]:
    for line in verdict.errors:
        yield Finding("error", "schema", f"Axolotl refuses the config: {line}.")
    for line in verdict.warnings:
        yield Finding("warning", "schema", f"Axolotl warns: {line.rstrip('.')}.")
    if not verdict.errors:
        yield Finding("ok", "schema", "Axolotl's own validation accepts the config.")
