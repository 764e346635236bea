"""From an adapter to a model one can serve: which adapter, on which base, and where to.

The merge itself runs in a process of its own (`leviathan_train.merge`), into a hidden
folder beside the goal, which gets the goal's name when all of it is proven and on disk.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from leviathan_train import card, checkpoints, resume
from leviathan_train import config as configs
from leviathan_train.checkpoints import Checkpoint
from leviathan_train.config import Config
from leviathan_train.errors import LeviathanError, UsageError
from leviathan_train.files import read_json, sync_file, sync_folder, write_json, write_text
from leviathan_train.launch import cause_in
from leviathan_train.run import Run
from leviathan_train.seal import Facts, Seal, digest

Precision = Literal["training", "full"]
Proof = Literal["none", "weights", "logits"]
Record = dict[str, Any]

ADAPTER = "adapter_model.safetensors"
RECORD = "leviathan_merge.json"
RECORD_VERSION = 1
MODELS = Path("models")
RESERVE = 64 << 20
"""Bytes that shall stay free besides the model: small files, and others who write."""

_SAMPLE = 1 << 16
_WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")


@dataclass(frozen=True)
class Adapter:
    """An adapter that can be merged.

    Attributes:
        path: its folder.
        label: what the user calls it, e.g. `checkpoint-1501`.
        run: the run that made it.
        facts: what training had reached with it, as far as is known.
        seal: the seal of its checkpoint, or, for a final adapter, of its run's newest.
        sha256: of its weights.
    """

    path: Path
    label: str
    run: Run
    facts: Facts | None
    seal: Seal | None
    sha256: str

    @property
    def base_name(self) -> str | None:
        """The base model it was trained on, as named then."""
        return resume.base_of(self.path)


@dataclass(frozen=True)
class Plan:
    """Everything a merge needs, checked before anything is written.

    Attributes:
        settings: of the training that made the adapter.
        base: the base model's folder.
        base_name: as the settings name it.
        quantised: whether the base is rounded to 4 bits first, as it was in training.
        goal: the folder of the merged model.
        replace: whether a merged model that is there may go.
    """

    run: Run
    adapter: Adapter
    settings: Mapping[str, Any]
    base: Path
    base_name: str
    precision: Precision
    quantised: bool
    goal: Path
    replace: bool
    prove: Proof


@dataclass(frozen=True)
class Job:
    """What the merge's own process is told."""

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
    """What the merge does now: `done` of `total` shards, tensors or prompts."""

    phase: str
    done: int = 0
    total: int = 0
    detail: str = ""


def make_plan(
    run: Run,
    choice: str,
    config: Config | None,
    goal: Path | None,
    *,
    precision: Precision = "training",
    prove: Proof = "weights",
    replace: bool = False,
) -> Plan:
    """Decide what is merged with what and check that it can be done; changes nothing.

    Args:
        choice: `final`, `latest`, `best`, a step, or the folder of a checkpoint or adapter.
        config: the config the user named, if he did.

    Raises:
        UsageError: nothing such, or the parts do not belong together.
        LeviathanError: the adapter is damaged, or the disk too small.
    """
    adapter = choose(run, choice)
    if fault := adapter_fault(adapter.path):
        raise LeviathanError(
            f"{adapter.path}: {fault}.", f"Merge another:  {_choices(adapter.run, run)}"
        )
    named = config or _config_of(adapter.run)
    if adapter.seal is None and named is None:
        raise UsageError(
            f"Nothing tells with which settings {adapter.path} was trained.",
            "Name its config:  leviathan merge CONFIG",
        )
    settings = adapter.seal.config if adapter.seal else named.values if named else {}
    base_name = str(
        (named and named.values.get("base_model"))
        or settings.get("base_model")
        or adapter.base_name
    )
    base = find_base(base_name, adapter.run, settings.get("revision_of_model"))
    _check_base(base)
    check_belongs(adapter, base, base_name)
    quantised = precision == "training" and trained_in_4bit(settings)
    goal = (goal or MODELS / f"{run.name}-merged").expanduser()
    _check_goal(goal, base, run, replace=replace)
    plan = Plan(run, adapter, settings, base, base_name, precision, quantised, goal, replace, prove)
    _check_space(plan)
    return plan


def choose(run: Run, choice: str) -> Adapter:
    """The adapter meant by `choice`.

    Raises:
        UsageError: there is none such; of an unfinished run, what there is instead.
        LeviathanError: it is there but not intact.
    """
    found = checkpoints.scan(run)
    if choice in {"final", "checkpoint-final"}:
        return _final(run, found)
    path = Path(choice)
    if (path / "adapter_config.json").is_file() and not _is_numbered(path):
        owner = Run(path if (path / ".leviathan").is_dir() else path.resolve().parent)
        return _adapter(path, path.resolve().name, owner, None, checkpoints.scan(owner))
    checkpoint = checkpoints.select(run, choice, found)
    owner = Run(checkpoint.path.parent)
    if not checkpoint.intact:
        raise LeviathanError(
            f"{checkpoint.name} is not intact: {checkpoint.reason}.",
            f"Merge another:  {_choices(owner, run)}",
        )
    return _adapter(checkpoint.path, checkpoint.name, owner, checkpoint, found)


def _is_numbered(path: Path) -> bool:
    return path.resolve().name.removeprefix("checkpoint-").isdigit()


def _final(run: Run, found: list[Checkpoint]) -> Adapter:
    live, step = run.live_session(), resume.finished_at(run, found)
    if live or step is None:
        session, newest = run.session(), checkpoints.latest(found)
        reached = newest.facts.step if newest else 0
        end = session.end if session else None
        state = "is still training" if live else f"{end.kind if end else 'ended'} at step {reached}"
        of = f" of {newest.facts.max_steps}" if newest and newest.facts.max_steps else ""
        there = _there_is(found)
        raise UsageError(
            f"{run.name} is not finished: it {state}{'' if live else of}. {there}",
            f"Merge one of them:  {_choices(run, run)}" if newest else _go_on(run),
        )
    for path in (run.final, run.path):
        if (path / "adapter_config.json").is_file():
            adapter = _adapter(path, "the final adapter", run, None, found)
            return replace(adapter, facts=adapter.facts or _facts_at_end(run, step))
    if any(pattern for pattern in _WEIGHTS if any(run.path.glob(pattern))):
        raise UsageError(
            f"{run.name} trained all weights: there is no adapter to merge.",
            f"The model is in {run.path}.",
        )
    raise UsageError(
        f"{run.name} finished at step {step}, but its final adapter is gone. {_there_is(found)}",
        f"Merge a checkpoint:  {_choices(run, run)}",
    )


def _adapter(
    path: Path, label: str, run: Run, checkpoint: Checkpoint | None, found: list[Checkpoint]
) -> Adapter:
    """The adapter in `path`; one that is a copy of a sealed checkpoint's is known by its hash."""
    try:
        sha = digest(path / ADAPTER)
    except OSError:
        sha = ""
    sealed = [item for item in found if item.seal]
    if checkpoint is None:
        for item in reversed(sealed):
            if item.seal and item.seal.files.get(ADAPTER, (0, None))[1] == sha:
                checkpoint = item
                break
    facts = checkpoint.facts if checkpoint else None
    seal = checkpoint.seal if checkpoint else sealed[-1].seal if sealed else None
    return Adapter(path, label, run, facts, seal, sha)


def _facts_at_end(run: Run, step: int) -> Facts:
    session = run.session()
    status = session.status if session else None
    if status is None or status.step != step:
        return Facts(step)
    return Facts(
        step, status.epoch, status.loss, status.eval_loss, status.learning_rate, None, step
    )


def _there_is(found: list[Checkpoint]) -> str:
    newest, best = checkpoints.latest(found), checkpoints.best(found)
    if newest is None:
        return "It has no intact checkpoint."
    marks = [f"{newest.name} (latest)"]
    if best:
        loss = best.facts.eval_loss
        marks.append(f"{best.name} (best{f', eval loss {loss:.4g}' if loss else ''})")
    return f"There is {' and '.join(marks)}."


def _choices(owner: Run, run: Run) -> str:
    found = checkpoints.scan(owner)
    words = ["latest"] if checkpoints.latest(found) else []
    words += ["best"] if checkpoints.best(found) else []
    commands = [f"leviathan merge {run.name} --checkpoint {word}" for word in words or ["STEP"]]
    return "    ".join(commands)


def _go_on(run: Run) -> str:
    config = _config_of(run)
    return f"Train it first:  leviathan train {config.path if config else 'CONFIG'}"


def _config_of(run: Run) -> Config | None:
    """The config that the run was last started with, as it is now."""
    for session in reversed(run.sessions()):
        launch = session.launch
        if name := launch.get("config"):
            with contextlib.suppress(LeviathanError):
                return configs.load(Path(launch.get("cwd") or ".") / str(name))
    return None


def trained_in_4bit(settings: Mapping[str, Any]) -> bool:
    """Whether Axolotl rounded the base to NF4 in training (axolotl 0.19, loaders/model.py).

    `adapter: lora` with `load_in_4bit` is accepted there, but trains an unrounded base.

    Raises:
        UsageError: it was rounded in another way, which Axolotl's merge does not know.
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


def find_base(name: str, run: Run, revision: str | None = None) -> Path:
    """The folder of a base model; one of the hub that is not in the cache is fetched.

    Raises:
        UsageError: there is none.
    """
    if configs.is_local(name):
        session = run.session()
        started_in = Path(session.launch.get("cwd") or ".") if session else Path()
        for folder in (Path(name).expanduser(), started_in / name):
            if (folder / "config.json").is_file():
                return folder
        raise UsageError(
            f"The base model {name} does not exist (no {Path(name) / 'config.json'}).",
            "Put it there, or correct base_model in the config and name it:"
            "  leviathan merge CONFIG",
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    unused = ["*.gguf", "*.pth", "original/*", "consolidated*"]
    try:
        with contextlib.suppress(LocalEntryNotFoundError):
            path = Path(snapshot_download(name, revision=revision, local_files_only=True))
            if not _missing_shards(path):
                return path
        return Path(snapshot_download(name, revision=revision, ignore_patterns=unused))
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(
            f"The base model {name} is neither a folder nor to be had from the hub: {reason}",
            "Name the folder of the model as base_model in the config.",
        ) from None


def weight_files(folder: Path) -> list[Path]:
    """The files of a model's weights."""
    for pattern in _WEIGHTS:
        if files := sorted(folder.glob(pattern)):
            return files
    return []


def _missing_shards(folder: Path) -> list[str]:
    for index in folder.glob("*.index.json"):
        listed = (read_json(index) or {}).get("weight_map") or {}
        if missing := sorted(name for name in set(listed.values()) if not (folder / name).exists()):
            return missing
    return [] if weight_files(folder) else ["model.safetensors"]


def _check_base(base: Path) -> None:
    if missing := _missing_shards(base):
        raise UsageError(
            f"The base model in {base} is not whole: {missing[0]} is missing.",
            "Fetch it again, or correct base_model in the config.",
        )
    method = ((read_json(base / "config.json") or {}).get("quantization_config") or {}).get(
        "quant_method"
    )
    if method:
        raise UsageError(
            f"The base model in {base} is stored quantised ({method}); an adapter cannot be"
            " added to it exactly.",
            "Name the unquantised model as base_model in a config:  leviathan merge CONFIG",
        )


def check_belongs(adapter: Adapter, base: Path, base_name: str) -> None:
    """Check that the adapter was trained on this base model.

    By the names and shapes of its tensors; by what the seal tells of the base; and, if both
    models are here, by samples of their weights.

    Raises:
        UsageError: it was not, with what tells so.
    """
    trained = adapter.base_name or base_name
    hint = (
        f"It was trained on {trained}: name that as base_model in a config, and merge with:"
        "  leviathan merge CONFIG"
    )
    if why := _misfit(adapter.path, base):
        raise UsageError(f"{adapter.label} does not fit the base model {base_name}: {why}.", hint)
    known = ((adapter.seal.trainer.get("inputs") if adapter.seal else None) or {}).get("base") or {}
    if known.get("config") and known["config"] != digest(base / "config.json"):
        raise UsageError(
            f"{base_name} is not the base model that {adapter.label} was trained on:"
            " its config.json is another.",
            hint,
        )
    if trained == base_name:
        return
    try:
        other = find_base(trained, adapter.run) if configs.is_local(trained) else None
    except UsageError:
        return  # moved away or never here: what could be compared was
    if other is not None and fingerprint(other) != fingerprint(base):
        raise UsageError(
            f"{adapter.label} was trained on {trained}, whose weights differ from {base_name}.",
            hint,
        )


def fingerprint(folder: Path) -> list[tuple[int, str]]:
    """Size in bytes and a hash of samples of each weight file; milliseconds at any size."""
    prints = []
    for file in weight_files(folder):
        sha, size = hashlib.sha256(), file.stat().st_size
        with file.open("rb") as stream:
            for part in range(16):
                stream.seek(max(0, size - _SAMPLE) * part // 15)
                sha.update(stream.read(_SAMPLE))
        prints.append((size, sha.hexdigest()))
    return prints


def read_header(file: Path) -> dict[str, Any]:
    """The header of a safetensors file: name to dtype, shape, offsets; checked against its size.

    Raises:
        ValueError: the file is cut off or no safetensors file.
        OSError: it cannot be read.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > size - 8:
            raise ValueError("it is empty or cut off")
        header = json.loads(stream.read(length))
    if not isinstance(header, dict):
        raise ValueError("its header is damaged")
    header.pop("__metadata__", None)
    end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if size != 8 + length + end:
        raise ValueError(f"it has {size} bytes instead of {8 + length + end}")
    return header


def adapter_fault(path: Path) -> str:
    """What is wrong with an adapter's files; empty if nothing is."""
    config = read_json(path / "adapter_config.json")
    if not isinstance(config, dict):
        return "adapter_config.json is missing or damaged"
    if config.get("peft_type") != "LORA":
        return f"it is of type {config.get('peft_type')}; only LoRA (and its kin) can be merged"
    try:
        header = read_header(path / ADAPTER)
    except FileNotFoundError:
        return f"{ADAPTER} is missing"
    except OSError as error:
        return f"{ADAPTER} cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        told = str(error) if type(error) is ValueError else "its header is damaged"
        return f"{ADAPTER} is damaged: {told}"
    return "" if header else f"{ADAPTER} holds no tensor"


def _misfit(adapter: Path, base: Path) -> str:
    """The first tensor of an adapter that has no counterpart in the base; empty if all have."""
    shapes: dict[str, list[int]] = {}
    for file in weight_files(base):
        if file.suffix != ".safetensors":
            return ""
        try:
            shapes |= {name: entry["shape"] for name, entry in read_header(file).items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            return f"{file} is damaged"
    header = read_header(adapter / ADAPTER)
    prefix, matched, strangers = "base_model.model.", 0, []
    for name, entry in header.items():
        module, dot, _ = name.removeprefix(prefix).rpartition(".lora_A.weight")
        if not dot:
            continue
        weight = shapes.get(f"{module}.weight")
        if weight is None:
            strangers.append(module)
            continue
        matched += 1
        partner = header.get(f"{prefix}{module}.lora_B.weight")
        if len(entry["shape"]) != 2 or len(weight) != 2 or partner is None:
            continue
        wanted = [partner["shape"][0], entry["shape"][1]]
        if weight not in (wanted, wanted[::-1]):
            return f"{module} is {weight} in the base and {wanted} in the adapter"
    # Some models name their layers otherwise in memory than on disk.
    return f"it has no {strangers[0]}" if strangers and not matched else ""


def _check_goal(goal: Path, base: Path, run: Run, *, replace: bool) -> None:
    if goal.is_symlink() or (goal.exists() and not goal.is_dir()):
        raise UsageError(f"{goal} is no folder.", "Name another:  --output DIR")
    if not goal.exists() or not any(goal.iterdir()):
        return
    here = goal.resolve()
    mine = (here / RECORD).is_file() or (
        (here / "config.json").is_file() and bool(weight_files(here))
    )
    precious = {base.resolve(), run.path.resolve(), Path.cwd(), Path.home()}
    if not mine or here in precious or any(here in other.parents for other in precious):
        raise UsageError(
            f"{goal} exists and is no merged model: it is not replaced.",
            "Name another folder:  --output DIR",
        )
    if not replace:
        raise UsageError(
            f"{goal} exists already.", "Replace it with:  --yes    or name another:  --output DIR"
        )


def _check_space(plan: Plan) -> None:
    folder = plan.goal.absolute().parent
    while not folder.exists():
        folder = folder.parent
    needed = sum(file.stat().st_size for file in weight_files(plan.base)) + RESERVE
    stale = _stale_bytes(plan.goal)
    free = shutil.disk_usage(folder).free + stale
    if free < needed:
        raise LeviathanError(
            f"The merged model needs {needed / 1e9:.1f} GB and {folder} has"
            f" {free / 1e9:.1f} GB free.",
            "Free some space there, or write it elsewhere:  --output DIR",
        )


def _workplace(goal: Path) -> Path:
    return goal.with_name(f".{goal.name}.merging")


def _stale_bytes(goal: Path) -> int:
    folder = _workplace(goal)
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


@contextlib.contextmanager
def _working(goal: Path) -> Iterator[Path]:
    """A hidden folder beside the goal, held by a lock that dies with this process.

    What a killed merge left in it is removed; the folder itself goes at the end.

    Raises:
        LeviathanError: another merge is writing the same goal.
    """
    folder = _workplace(goal)
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            lock = (folder / "lock").open("a")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                raise LeviathanError(
                    f"Another merge is writing {goal}.",
                    "Wait for it, or name another: --output DIR",
                ) from None
            with contextlib.suppress(OSError):
                if os.fstat(lock.fileno()).st_ino == (folder / "lock").stat().st_ino:
                    break
            lock.close()  # a merge that ended took the folder away under our hands
    with lock:
        old = folder / "replaced"
        if old.exists() and not goal.exists():
            old.rename(goal)  # it died between two renames
        for entry in folder.iterdir():
            if entry.name != "lock":
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM and a closed terminal end the merge as Ctrl+C does, leaving nothing behind."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {
        number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def merge(plan: Plan, on_progress: Callable[[Progress], None]) -> dict[str, Any]:
    """Merge, prove, and publish; the record that lies beside the model.

    Raises:
        LeviathanError: it failed, and nothing bears the goal's name that did not before.
        KeyboardInterrupt: it was interrupted; likewise.
    """
    began, started = time.time(), time.monotonic()
    goal = plan.goal
    log = Path(tempfile.mkstemp(prefix="leviathan_merge_", suffix=".log")[1])
    with _interruptible(), _working(goal) as folder:
        try:
            result, files = _run_child(plan, folder, log, on_progress)
            out = folder / "merged"
            record = _record(plan, result, began, round(time.monotonic() - started, 3))
            write_text(out / "README.md", card.render(record, plan.settings, plan.base))
            _settle(out, files)
            record["files"] = dict(sorted(files.items()))
            write_json(out / RECORD, record, durable=True)
            _publish(out, goal, folder)
        except OSError as error:
            raise _failed(
                plan, f"{error.strerror or error}: {error.filename or out}", log
            ) from None
    with contextlib.suppress(OSError):
        log.unlink()
    return record


def _run_child(
    plan: Plan, folder: Path, log: Path, on_progress: Callable[[Progress], None]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run the merge's own process; what it found, and the files that are done already."""
    bnb = plan.settings.get("bnb_config_kwargs") or {}
    job = Job(
        base=str(plan.base.absolute()),
        adapter=str(plan.adapter.path.absolute()),
        out=str(folder.absolute() / "merged"),
        quantised=plan.quantised,
        double_quant=bool(bnb.get("bnb_4bit_use_double_quant", True)),
        quantise_experts=plan.quantised and bool(plan.settings.get("quantize_moe_experts")),
        skip_modules=bnb.get("llm_int8_skip_modules"),
        dtype=_training_dtype(plan.settings),
        trust_remote_code=bool(plan.settings.get("trust_remote_code")),
        prove=plan.prove,
        parent=os.getpid(),
    )
    write_json(folder / "job.json", asdict(job))
    with log.open("ab") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "leviathan_train.merge", str(folder / "job.json")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stream,
            start_new_session=True,  # Ctrl+C reaches us alone, and we end it
        )
    result: dict[str, Any] | None = None
    files: dict[str, Any] = {}
    try:
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "file":
                _note(Path(job.out) / event["name"], event["name"], files)
            elif event["event"] == "progress":
                on_progress(Progress(**event["progress"]))
            elif event["event"] == "error":
                raise LeviathanError(event["message"], event["hint"] or f"The whole log: {log}")
            else:
                result = event["result"]
        if process.wait() or result is None:
            why = cause_in(log)
            if process.returncode == -signal.SIGKILL:
                why = "it was killed from outside (SIGKILL), perhaps for want of memory"
            raise _failed(plan, why, log)
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()
    return result, files


def _training_dtype(settings: Mapping[str, Any]) -> str:
    """The number format that the base was loaded in (axolotl 0.19, utils/config/__init__.py)."""
    bf16 = settings.get("bf16", settings.get("bfloat16", "auto"))
    half = settings.get("fp16") or settings.get("float16")
    if bf16 in (None, "auto") and not half:
        return "auto"
    if bf16 and bf16 != "auto":
        return "bfloat16"
    return "float16" if half else "float32"


def _failed(plan: Plan, why: str, log: Path) -> LeviathanError:
    low = why.lower()
    folder = plan.goal.absolute().parent
    if "no space left" in low or "os error 28" in low or "disk quota" in low or "sigbus" in low:
        free = shutil.disk_usage(folder).free
        return LeviathanError(
            f"The disk of {folder} is full ({free / 1e9:.1f} GB free); nothing was left there.",
            "Free some space, or write the model elsewhere:  --output DIR",
        )
    if "cuda" in low and "out of memory" in low:
        return LeviathanError(
            "The GPU has no memory left for the merge.",
            "Wait until it is free, or merge on the CPU:  CUDA_VISIBLE_DEVICES= leviathan merge",
        )
    if "NotImplementedError" in why:
        why = f"Axolotl's merge does not know this kind of adapter: {why}"
    return LeviathanError(f"The merge failed: {why}", f"The whole log: {log}")


def _note(file: Path, name: str, files: dict[str, Any]) -> None:
    """Force a finished file to disk and note its size in bytes and hash."""
    sync_file(file)
    files[name] = {"bytes": file.stat().st_size, "sha256": digest(file)}


def _settle(out: Path, files: dict[str, Any]) -> None:
    for file in sorted(out.rglob("*")):
        name = file.relative_to(out).as_posix()
        if file.is_file() and name not in files:
            _note(file, name, files)
    for name in set(files) - {file.relative_to(out).as_posix() for file in out.rglob("*")}:
        del files[name]
    sync_folder(out)


def _publish(out: Path, goal: Path, folder: Path) -> None:
    """Give the finished model its name; one that it replaces goes only then."""
    old = folder / "replaced"
    if goal.exists():
        goal.rename(old)
    try:
        out.rename(goal)
    except BaseException:
        if old.exists():
            old.rename(goal)
        raise
    sync_folder(goal.absolute().parent)


def _record(plan: Plan, result: dict[str, Any], began: float, seconds: float) -> dict[str, Any]:
    """The content of `leviathan_merge.json`. Sizes in bytes, times in seconds."""
    adapter, facts = plan.adapter, plan.adapter.facts
    weights = weight_files(plan.base)
    record = {
        "merge": RECORD_VERSION,
        "run": plan.run.name,
        "path": str(plan.goal),
        "base": {
            "name": plan.base_name,
            "path": str(plan.base),
            "config_sha256": digest(plan.base / "config.json"),
            "bytes": sum(file.stat().st_size for file in weights),
        },
        "adapter": {
            "path": str(adapter.path),
            "name": adapter.label,
            "sha256": adapter.sha256,
            "config_sha256": digest(adapter.path / "adapter_config.json"),
        },
        "step": facts.step if facts else None,
        "epoch": facts.epoch if facts else None,
        "loss": facts.loss if facts else None,
        "eval_loss": facts.eval_loss if facts else None,
        "precision": plan.precision,
        "base_rounded_to_4bit": plan.quantised,
        "proof": result["proof"],
        "mended": result["mended"],
        "versions": result["versions"],
        "time": began,
        "seconds": seconds,
    }
    redacted: dict[str, Any] = configs.redact(record)
    return redacted
