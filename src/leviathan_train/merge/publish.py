"""A merge from its plan to a model under its name.

The model is written into a hidden folder beside its goal, and gets the goal's name when all of it
is on disk.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from leviathan_train.checkpoints.seal import digest
from leviathan_train.config.redact import redact
from leviathan_train.errors import LeviathanError
from leviathan_train.merge import card
from leviathan_train.merge.base import weight_files
from leviathan_train.merge.job import Job, Merged, Progress
from leviathan_train.merge.plan import Plan, training_dtype
from leviathan_train.merge.process import Settled, explained, run_job, settle
from leviathan_train.system.files import sync_folder, write_json, write_text
from leviathan_train.system.locks import locked
from leviathan_train.system.signals import NotedSignals

Record = dict[str, Any]

RECORD = "leviathan_merge.json"
RECORD_VERSION = 2


def merge(plan: Plan, on_progress: Callable[[Progress], None]) -> Record:
    """Merge, prove, and publish.

    Returns:
        The content of `leviathan_merge.json`, which lies beside the model.

    Raises:
        LeviathanError: it failed; nothing bears the goal's name that did not before.
        KeyboardInterrupt: Ctrl+C, SIGTERM, or a closed terminal; likewise.
    """
    began, started = time.time(), time.monotonic()
    with NotedSignals() as signals, _log() as log, _working(plan) as folder:
        job = _job(plan, folder / "merged")
        out = Path(job.out)
        try:
            merged, files = run_job(job, log, signals, on_progress)
            record = _record(plan, merged, began, round(time.monotonic() - started, 3))
            write_text(out / "README.md", card.render(record, plan.settings, plan.base))
            for file in out.iterdir():
                if file.name not in files:
                    files[file.name] = Settled(settle(file, None), digest(file))
            record["files"] = {name: asdict(files[name]) for name in sorted(files)}
            write_json(out / RECORD, record, durable=True)
            if signals:
                raise KeyboardInterrupt
            _publish(out, plan.goal, folder / "replaced")
        except OSError as error:
            named = (error.strerror or error, error.filename)
            raise explained(": ".join(str(part) for part in named if part), job, log) from None
    return record


@contextlib.contextmanager
def _log() -> Iterator[Path]:
    """A file for what the libraries print; it stays where an error names it."""
    handle, name = tempfile.mkstemp(prefix="leviathan_merge_", suffix=".log")
    os.close(handle)
    named = False
    try:
        yield Path(name)
    except LeviathanError as error:
        named = name in (error.hint or "")
        raise
    finally:
        if not named:
            os.unlink(name)


@contextlib.contextmanager
def _working(plan: Plan) -> Iterator[Path]:
    """The hidden folder, held by a lock that dies with this process; it goes at the end.

    What a killed merge left in it is removed first.

    Raises:
        LeviathanError: another merge is writing the same model, or none could.
    """
    folder = plan.workplace
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / "lock", wait=False))
        except BlockingIOError:
            raise LeviathanError(
                "Another merge is writing the same model.",
                "Wait for it, or name another folder:  --output DIR",
            ) from None
        except OSError as error:
            raise LeviathanError(
                f"{folder.parent} cannot be written to: {error.strerror}.",
                "Write the model elsewhere:  --output DIR",
            ) from None
        try:
            if (folder / "replaced").exists() and not plan.goal.exists():
                (folder / "replaced").rename(plan.goal)  # it died between two renames
            for entry in folder.iterdir():
                if entry.is_dir():
                    shutil.rmtree(entry)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _publish(out: Path, goal: Path, old: Path) -> None:
    """Give the finished model its name; one that it replaces is removed only then."""
    sync_folder(out)
    if goal.exists():
        goal.rename(old)
    try:
        out.rename(goal)
        sync_folder(goal.absolute().parent)
    except BaseException:
        if not out.exists():  # the disk could not keep the name
            goal.rename(out)
        if old.exists():
            old.rename(goal)
        raise


def _job(plan: Plan, out: Path) -> Job:
    settings = plan.settings
    bnb = settings.get("bnb_config_kwargs") or {}
    return Job(
        base=str(plan.base.absolute()),
        adapter=str(plan.adapter.path.absolute()),
        out=str(out.absolute()),
        quantised=plan.quantised,
        double_quant=bool(bnb.get("bnb_4bit_use_double_quant", True)),
        quantise_experts=plan.quantised and bool(settings.get("quantize_moe_experts")),
        skip_modules=bnb.get("llm_int8_skip_modules"),
        dtype=training_dtype(settings),
        trust_remote_code=bool(settings.get("trust_remote_code")),
        prove=plan.prove,
        parent=os.getpid(),
    )


def _record(plan: Plan, merged: Merged, began: float, seconds: float) -> Record:
    """The content of `leviathan_merge.json`. Sizes in bytes, times in seconds."""
    adapter, facts = plan.adapter, plan.adapter.facts
    value = {
        "merge": RECORD_VERSION,
        "run": plan.run.name,
        "path": str(plan.goal),
        "base": {
            "name": plan.base_name,
            "path": str(plan.base),
            "config_sha256": digest(plan.base / "config.json"),
            "bytes": sum(file.stat().st_size for file in weight_files(plan.base)),
        },
        "adapter": {
            "name": adapter.label,
            "path": str(adapter.path),
            "sha256": adapter.sha256,
            "config_sha256": digest(adapter.path / "adapter_config.json"),
        },
        "step": facts.step if facts else None,
        "epoch": facts.epoch if facts else None,
        "loss": facts.loss if facts else None,
        "eval_loss": facts.eval_loss if facts else None,
        "precision": plan.precision,
        "rounded_to_4bit": plan.quantised,
        "untied": merged.untied,
        "proof": _proof(plan, merged),
        "versions": merged.versions,
        "time": began,
        "seconds": seconds,
    }
    redacted: Record = redact(value)
    return redacted


def _proof(plan: Plan, merged: Merged) -> Record:
    """What was compared; see docs/json.md."""
    proof: Record = {}
    if plan.prove != "none":
        proof["weights"] = {
            "tensors": merged.tensors,
            "compared": merged.tensors,
            "adapted": merged.adapted,
            "max_difference": merged.largest_rounding,
        }
    if merged.logits:
        proof["logits"] = merged.logits
    return proof
