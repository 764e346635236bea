"""A merge, seen from the command line: the plan, its own process, and the publishing.

The process (`leviathan_train.jobs.merge`) writes into a hidden folder beside the goal, which
gets the goal's name when all of it is proven and on disk.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal

from leviathan_train.checkpoints.seal import digest
from leviathan_train.config import load as configs
from leviathan_train.config.load import Config
from leviathan_train.errors import LeviathanError, UsageError
from leviathan_train.merge import adapters, card
from leviathan_train.merge.adapters import Adapter, weight_files
from leviathan_train.run.folder import Run
from leviathan_train.run.log import cause_in
from leviathan_train.system.files import (
    folder_bytes,
    sync_file,
    sync_folder,
    write_json,
    write_text,
)

Precision = Literal["training", "full"]
Proof = Literal["none", "weights", "logits"]
Record = dict[str, Any]

RECORD = "leviathan_merge.json"
RECORD_VERSION = 1
MODELS = Path("models")
RESERVE = 64 << 20
"""Bytes that shall stay free besides the model: for small files, and for others."""


@dataclass(frozen=True)
class Plan:
    """Everything a merge needs, checked before anything is written.

    Attributes:
        settings: of the training that made the adapter.
        base: the base model's folder, which `base_name` names.
        quantised: whether the base is rounded to 4 bits, as it was in training.
        goal: the folder of the merged model.
    """

    run: Run
    adapter: Adapter
    settings: Mapping[str, Any]
    base: Path
    base_name: str
    precision: Precision
    quantised: bool
    goal: Path
    prove: Proof


@dataclass(frozen=True)
class Job:
    """What the merge's own process is told.

    Attributes:
        quantised, double_quant, quantise_experts, skip_modules: how training rounded the base.
        dtype: the number format that training loaded it in, or `auto`.
        parent: pid of the command line, which it does not outlive.
    """

    base: str
    adapter: str
    out: str
    quantised: bool
    double_quant: bool
    quantise_experts: bool
    skip_modules: list[str] | None
    dtype: str
    trust_remote_code: bool
    prove: Proof
    parent: int


@dataclass(frozen=True)
class Progress:
    """What a merge does now: `done` of `total` shards, tensors or models."""

    phase: str
    done: int
    total: int
    detail: str = ""


def make_plan(
    run: Run,
    choice: str,
    goal: Path,
    *,
    config: Config | None = None,
    precision: Precision = "training",
    prove: Proof = "weights",
    replace: bool = False,
) -> Plan:
    """Decide what is merged with what and check that it can be done; changes nothing.

    Args:
        choice: see `adapters.choose`.
        config: the config that the user named, if any.
        replace: whether a merged model that is there may go.

    Raises:
        UsageError: nothing such, or the parts do not belong together.
        LeviathanError: the adapter is damaged, or the disk too small.
    """
    adapter = adapters.choose(run, choice)
    config = config or adapters.config_of(adapter.run)
    if adapter.seal is None and config is None:
        raise UsageError(
            f"Nothing tells with which settings {adapter.path} was trained.",
            f"Name its config:  leviathan merge CONFIG --checkpoint {adapter.path}",
        )
    settings = adapter.seal.config if adapter.seal else config.values if config else {}
    named = config.values.get("base_model") if config else None
    base_name = str(named or settings.get("base_model"))
    base = adapters.find_base(base_name, adapter.run, settings.get("revision_of_model"))
    adapters.check_belongs(adapter, base, base_name)
    quantised = precision == "training" and trained_in_4bit(settings)
    _check_goal(goal, {base, run.path, adapter.path}, replace=replace)
    _check_space(goal, base)
    return Plan(run, adapter, settings, base, base_name, precision, quantised, goal, prove)


def trained_in_4bit(settings: Mapping[str, Any]) -> bool:
    """Whether training rounded the base to NF4 (axolotl 0.19, loaders/model.py:801).

    `adapter: lora` with `load_in_4bit` is accepted there, but trains an unrounded base.

    Raises:
        UsageError: it was rounded in a way that Axolotl's merge does not know.
    """
    if settings.get("adapter") != "qlora" or not settings.get("load_in_4bit"):
        return False
    kind = (settings.get("bnb_config_kwargs") or {}).get("bnb_4bit_quant_type", "nf4")
    if kind != "nf4":
        raise UsageError(
            f"The base was trained in {kind}, which Axolotl's merge does not know.",
            "Merge with the base in full precision:  --precision full",
        )
    return True


def is_model(folder: Path) -> bool:
    """Whether `folder` holds a model."""
    return (folder / "config.json").is_file() and bool(weight_files(folder))


def _check_goal(goal: Path, precious: set[Path], *, replace: bool) -> None:
    if goal.is_symlink() or (goal.exists() and not goal.is_dir()):
        raise UsageError(f"{goal} is no folder.", "Name another:  --output DIR")
    if not goal.exists() or not any(goal.iterdir()):
        return
    here = goal.resolve()
    kept = [path.resolve() for path in (*precious, Path.cwd())]
    if not is_model(here) or any(here == path or here in path.parents for path in kept):
        raise UsageError(
            f"{goal} exists and is no merged model: it is not replaced.",
            "Name another folder:  --output DIR",
        )
    if not replace:
        raise UsageError(
            f"{goal} exists already.", "Replace it with:  --yes    or name another:  --output DIR"
        )


def _check_space(goal: Path, base: Path) -> None:
    folder = goal.absolute().parent
    while not folder.exists():
        folder = folder.parent
    needed = sum(file.stat().st_size for file in weight_files(base)) + RESERVE
    free = shutil.disk_usage(folder).free + folder_bytes(_workplace(goal))
    if free < needed:
        raise LeviathanError(
            f"The model needs {needed / 1e9:.1f} GB, and {folder} has {free / 1e9:.1f} GB free.",
            "Free some space there, or write it elsewhere:  --output DIR",
        )


def merge(plan: Plan, on_progress: Callable[[Progress], None]) -> Record:
    """Merge, prove, and publish.

    Returns:
        The content of `leviathan_merge.json`, which lies beside the model.

    Raises:
        LeviathanError: it failed; nothing bears the goal's name that did not before.
        KeyboardInterrupt: it was interrupted; likewise.
    """
    began, started = time.time(), time.monotonic()
    with _Interrupts() as interrupts, _log() as log, _working(plan.goal) as folder:
        out = folder / "merged"
        try:
            result, files = _run_child(_job(plan, out), log, on_progress, interrupts)
            record = _record(plan, result, began, round(time.monotonic() - started, 3))
            write_text(out / "README.md", card.render(record, plan.settings, plan.base))
            for file in sorted(out.iterdir()):
                if file.name not in files:
                    files[file.name] = _settle(file)
            record["files"] = dict(sorted(files.items()))
            write_json(out / RECORD, record, durable=True)
            interrupts.check()
            _publish(out, plan.goal, folder / "replaced")
        except _ChildError as error:
            raise _explained(str(error), plan, log) from None
        except OSError as error:
            raise _explained(f"{error.strerror}: {error.filename}", plan, log) from None
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


class _ChildError(Exception):
    """The merge's own process died of this."""


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
        dtype=_training_dtype(settings),
        trust_remote_code=bool(settings.get("trust_remote_code")),
        prove=plan.prove,
        parent=os.getpid(),
    )


def _training_dtype(settings: Mapping[str, Any]) -> str:
    """As in axolotl 0.19, utils/config/__init__.py:165 to :201."""
    bf16 = settings.get("bf16", settings.get("bfloat16", "auto"))
    half = settings.get("fp16") or settings.get("float16")
    if bf16 == "auto" and not half:
        return "auto"
    if bf16 and bf16 != "auto":
        return "bfloat16"
    return "float16" if half else "float32"


def _run_child(
    job: Job, log: Path, on_progress: Callable[[Progress], None], interrupts: _Interrupts
) -> tuple[Record, Record]:
    """Run the merge's own process; its result, and the files that were settled meanwhile.

    Raises:
        LeviathanError: what it refused.
        _ChildError: what it died of.
        KeyboardInterrupt: it was interrupted.
    """
    job_file = Path(job.out).with_name("job.json")
    write_json(job_file, asdict(job))
    on_progress(Progress("loading", 0, 1))
    reader, writer = os.pipe()  # stdout is no channel: libraries write to it at import
    with log.open("ab") as stream, contextlib.closing(os.fdopen(reader)) as events:
        process = subprocess.Popen(
            [sys.executable, "-m", "leviathan_train.jobs.merge", str(job_file), str(writer)],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            pass_fds=[writer],
            start_new_session=True,  # Ctrl+C reaches us alone, and we end it
        )
        os.close(writer)
        interrupts.end(process)
        try:
            result, files = _hear(events, Path(job.out), log, on_progress)
            interrupts.check()
            if process.wait() == -signal.SIGKILL:
                raise _ChildError("it was killed from outside, perhaps for want of memory")
            if process.returncode or result is None:
                raise _ChildError(cause_in(log))
        finally:
            process.kill()
            process.wait()
    return result, files


def _hear(
    events: IO[str], out: Path, log: Path, on_progress: Callable[[Progress], None]
) -> tuple[Record | None, Record]:
    """Follow the merge's own process until it is done; settle each file that it is done with."""
    result, files = None, {}
    for line in events:
        event = json.loads(line)
        if event["event"] == "progress":
            on_progress(Progress(**event["progress"]))
        elif event["event"] == "file":
            files[event["name"]] = _settle(out / event["name"])
        elif event["event"] == "error":
            raise LeviathanError(event["message"], event["hint"] or f"The whole log: {log}")
        else:
            result = event["result"]
    return result, files


def _settle(file: Path) -> Record:
    """Make a finished file durable and readable; its size in bytes and its hash."""
    file.chmod(0o644)  # safetensors makes them private
    sync_file(file)
    return {"bytes": file.stat().st_size, "sha256": digest(file)}


def _publish(out: Path, goal: Path, old: Path) -> None:
    """Give the finished model its name; one that it replaces goes only then."""
    sync_folder(out)
    if goal.exists():
        goal.rename(old)
    try:
        out.rename(goal)
    except BaseException:
        if old.exists():
            old.rename(goal)
        raise
    sync_folder(goal.absolute().parent)


def _explained(why: str, plan: Plan, log: Path) -> LeviathanError:
    low, folder = why.lower(), plan.goal.absolute().parent
    if "no space left" in low or "os error 28" in low or "quota" in low:
        return LeviathanError(
            f"The disk of {folder} is full; the half-written model was removed.",
            "Free some space there, or write it elsewhere:  --output DIR",
        )
    if "cuda" in low and "out of memory" in low:
        return LeviathanError(
            "The GPU has no memory left for the merge.",
            "Wait until it is free, or merge on the CPU:  CUDA_VISIBLE_DEVICES= leviathan merge",
        )
    if "NotImplementedError" in why:
        return LeviathanError(f"Axolotl cannot merge this adapter: {why}", f"The log: {log}")
    return LeviathanError(f"The merge failed: {why}", f"The whole log: {log}")


def _workplace(goal: Path) -> Path:
    return goal.with_name(f".{goal.name}.merging")


@contextlib.contextmanager
def _working(goal: Path) -> Iterator[Path]:
    """A hidden folder beside the goal, held by a lock that dies with this process.

    What a killed merge left in it is removed first; the folder goes at the end.

    Raises:
        LeviathanError: another merge is writing the same goal.
    """
    folder = _workplace(goal)
    lock = None
    while lock is None:
        folder.mkdir(parents=True, exist_ok=True)
        lock = _lock(folder / "lock")
    with lock:
        try:
            if (folder / "replaced").exists() and not goal.exists():
                (folder / "replaced").rename(goal)  # it died between two renames
            for entry in folder.iterdir():
                if entry.is_dir():
                    shutil.rmtree(entry)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _lock(file: Path) -> IO[str] | None:
    """Hold a lock file; None if a merge that ended took it away under our hands."""
    with contextlib.suppress(FileNotFoundError), contextlib.ExitStack() as stack:
        lock = stack.enter_context(file.open("a"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LeviathanError(
                "Another merge is writing the same model.",
                "Wait for it, or name another folder:  --output DIR",
            ) from None
        if os.path.samestat(os.fstat(lock.fileno()), file.stat()):
            stack.pop_all()
            return lock
    return None


class _Interrupts:
    """Ctrl+C, SIGTERM and a closed terminal, heard where nothing is left behind."""

    def __init__(self) -> None:
        self._heard = False
        self._child: subprocess.Popen[bytes] | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Interrupts:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, frame: object) -> None:
        self._heard = True
        if self._child:
            self._child.kill()

    def end(self, child: subprocess.Popen[bytes]) -> None:
        """End `child` at an interrupt, also at one that was heard before."""
        self._child = child
        if self._heard:
            child.kill()

    def check(self) -> None:
        """Raise KeyboardInterrupt if there was one."""
        if self._heard:
            raise KeyboardInterrupt


def _record(plan: Plan, result: Record, began: float, seconds: float) -> Record:
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
        "proof": result["proof"],
        "mended": result["mended"],
        "versions": result["versions"],
        "time": began,
        "seconds": seconds,
    }
    redacted: Record = configs.redact(value)
    return redacted
