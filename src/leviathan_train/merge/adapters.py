"""Adapters that can be merged: which one is meant, and whether it is whole."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from leviathan_train.checkpoints import store as checkpoints
from leviathan_train.checkpoints.final import finished_at
from leviathan_train.checkpoints.seal import Facts, Seal, digest
from leviathan_train.checkpoints.store import Checkpoint
from leviathan_train.config.load import Config, load_config
from leviathan_train.errors import LeviathanError, UsageError
from leviathan_train.merge.base import weight_files
from leviathan_train.run.folder import Run
from leviathan_train.run.lookup import in_command, start_again
from leviathan_train.run.records import Ending, Launch
from leviathan_train.system.files import read_json
from leviathan_train.system.safetensors import HeaderError, read_header

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
"""Before the name of each tensor in an adapter (peft)."""

_KEEPS_BASE = {None, True, False, "gaussian", "eva", "orthogonal"}
"""Values of `init_lora_weights` that leave the base as it is; the others train another one."""


@dataclass(frozen=True)
class Adapter:
    """An adapter in a folder.

    Attributes:
        label: what the user calls it, e.g. `checkpoint-1501`.
        run: the run that made it.
        facts: what training had reached with it, as far as is known.
        seal: the seal of its checkpoint or, of a final adapter, of its run's newest.
        sha256: of its weights; empty if they are not there.
    """

    path: Path
    label: str
    run: Run
    facts: Facts | None
    seal: Seal | None
    sha256: str


def choose(run: Run, choice: str) -> Adapter:
    """The adapter meant by `final`, `latest`, `best`, a step, or a folder.

    Raises:
        UsageError: there is none such, or it is not intact; of an unfinished run, with what
            there is instead.
    """
    found = checkpoints.scan(run)
    if choice in {"final", "checkpoint-final"}:
        return _final(run, found)
    path = Path(choice)
    if (path / "adapter_config.json").is_file() and checkpoints.step_of(
        path.resolve().name
    ) is None:
        run = owner(path)
        adapter = _adapter(path, path.resolve().name, run, None, checkpoints.scan(run))
    else:
        checkpoint = checkpoints.select(run, choice, found)
        run = Run(checkpoint.path.parent)
        if checkpoint.state == "damaged":
            raise _damaged(run, checkpoint.name, checkpoint.reason)
        adapter = _adapter(checkpoint.path, checkpoint.name, run, checkpoint, found)
    return _whole(adapter)


def owner(path: Path) -> Run:
    """The run that the folder of an adapter belongs to."""
    is_run = (path / ".leviathan").is_dir() or any(path.glob("checkpoint-*"))
    return Run(path if is_run else path.absolute().parent)


def _final(run: Run, found: list[Checkpoint]) -> Adapter:
    step = finished_at(run, found)
    live = run.live_session()
    if step is None or (live and not live.end):  # after its end a process may linger
        raise _unfinished(run, found)
    for path in (run.final, run.path):
        if (path / "adapter_config.json").is_file():
            adapter = _adapter(path, "the final adapter", run, None, found)
            return _whole(replace(adapter, facts=adapter.facts or _facts_at_end(run, step)))
    if weight_files(run.path):
        raise UsageError(
            f"{run.name} trained all weights: there is no adapter to merge.",
            f"The model is in {run.path}.",
        )
    raise UsageError(
        f"{run.name} finished at step {step}, but its final adapter is gone. {_there_is(found)}",
        f"Merge a checkpoint:  {_commands(run, found)}",
    )


def _unfinished(run: Run, found: list[Checkpoint]) -> UsageError:
    session, newest = run.live_session() or run.session(), checkpoints.latest(found)
    end, status = (session.end, session.status) if session else (None, None)
    step = status.step if status and status.step else newest.step if newest else 0
    most = (status and status.max_steps) or (newest and newest.facts.max_steps)
    state = "it is training" if session and not end else "it ended"
    if end:
        state = f"it {'was ' if end.kind in {Ending.KILLED, Ending.STOPPED} else ''}{end.kind}"
    where = f" at step {step}{f' of {most}' if most else ''}" if step else ""
    if session is None and newest is None and not (run.path / WEIGHTS).is_file():
        return UsageError(
            f"{run.name} has not been trained: there is nothing in {run.path}.",
            "Train it first:  leviathan train CONFIG",
        )
    hint = f"Train it first:  {start_again(session.launch if session else Launch())}"
    if newest:
        hint = f"Merge a checkpoint of it:  {_commands(run, found)}"
    elif (run.path / WEIGHTS).is_file():
        lies = f"leviathan merge {in_command(run)} --checkpoint {shlex.quote(str(run.path))}"
        hint = f"Merge the adapter that lies there:  {lies}"
    return UsageError(f"{run.name} is not finished: {state}{where}. {_there_is(found)}", hint)


def _there_is(found: list[Checkpoint]) -> str:
    newest, best = checkpoints.latest(found), checkpoints.best(found)
    if newest is None:
        return "It has no intact checkpoint."
    if best is None:
        return f"There is {newest.name} (latest)."
    loss, at = best.facts.eval_loss, best.facts.eval_step
    there = "" if at in (None, best.step) else f" at step {at}"
    told = "best" if loss is None else f"best, eval loss {loss:.4g}{there}"
    if best.step == newest.step:
        return f"There is {newest.name} (latest and {told})."
    return f"There is {newest.name} (latest) and {best.name} ({told})."


def _commands(run: Run, found: list[Checkpoint]) -> str:
    newest, best = checkpoints.latest(found), checkpoints.best(found)
    words = ["latest"] + (["best"] if best and newest and best.step != newest.step else [])
    if newest is None:
        words = ["STEP"]
    return "    ".join(f"leviathan merge {in_command(run)} --checkpoint {word}" for word in words)


def _damaged(run: Run, name: str, reason: str) -> UsageError:
    found = checkpoints.scan(run)
    return UsageError(
        f"{name} is not intact: {reason}.", f"Merge another:  {_commands(run, found)}"
    )


def _adapter(
    path: Path, label: str, run: Run, checkpoint: Checkpoint | None, found: list[Checkpoint]
) -> Adapter:
    """The adapter in `path`; a copy of a sealed checkpoint's is known by its hash."""
    sha = ""
    with contextlib.suppress(OSError):
        sha = digest(path / WEIGHTS)
    sealed = [item for item in reversed(found) if item.seal]
    twins = (
        item for item in sealed if item.seal and (item.seal.files.get(WEIGHTS) or "x")[-1] == sha
    )
    checkpoint = checkpoint or next(twins, None)
    facts = checkpoint.facts if checkpoint else None
    seal = checkpoint.seal if checkpoint else sealed[0].seal if sealed else None
    return Adapter(path, label, run, facts, seal, sha)


def _facts_at_end(run: Run, step: int) -> Facts:
    session = run.session()
    status = session.status if session else None
    if status is None or status.step != step:
        return Facts(step)
    return Facts(step, status.epoch, status.loss, status.eval_loss, status.learning_rate)


def _whole(adapter: Adapter) -> Adapter:
    """The adapter, if its files are sound by themselves.

    Raises:
        LeviathanError: they are not.
    """
    config, reason = read_json(adapter.path / "adapter_config.json"), ""
    if not isinstance(config, dict):
        reason = "adapter_config.json is missing or damaged"
    elif config.get("peft_type") != "LORA":
        reason = f"it is of type {config.get('peft_type')}, and only LoRA and its kin can be merged"
    elif why := _unmergeable(config):
        raise UsageError(
            f"{adapter.label} cannot be merged exactly: {why}.",
            "Merge it with Axolotl:  python -m axolotl.cli.merge_lora CONFIG --merge_method=legacy",
        )
    else:
        try:
            reason = "" if read_header(adapter.path / WEIGHTS) else f"{WEIGHTS} holds no tensors"
        except FileNotFoundError:
            reason = f"{WEIGHTS} is missing"
        except HeaderError as error:
            reason = f"{WEIGHTS} {error}"
        except OSError as error:
            reason = f"{WEIGHTS} cannot be read: {error.strerror}"
    if reason:
        raise _damaged(adapter.run, adapter.label, reason)
    return adapter


def _unmergeable(config: Mapping[str, Any]) -> str:
    """What makes base and adapter more than a sum; empty if nothing does."""
    start = config.get("init_lora_weights")
    if not isinstance(start, str | bool | None) or start not in _KEEPS_BASE:
        return f"its training changed the base too (init_lora_weights: {start})"
    return "it repeats layers (layer_replication)" if config.get("layer_replication") else ""


def config_of(run: Run) -> Config | None:
    """The config that the run was last started with, as it is now; None if it is gone."""
    for session in reversed(run.sessions()):
        launch = session.launch
        if launch.config:
            with contextlib.suppress(LeviathanError):
                return load_config(Path(launch.cwd or ".") / launch.config)
    return None
