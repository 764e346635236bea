"""What is told of a run, as plain values: `--json` prints them, `text` draws them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from leviathan_train.checkpoints import store as checkpoints
from leviathan_train.checkpoints.store import Checkpoint
from leviathan_train.system.files import folder_bytes

if TYPE_CHECKING:  # what is read only to be listed needs none of these
    from leviathan_train.checkpoints.retention import Item
    from leviathan_train.launch.activity import Activity
    from leviathan_train.launch.requests import Outcome
    from leviathan_train.run.folder import Run
    from leviathan_train.run.history import Past
    from leviathan_train.run.session import Session
    from leviathan_train.ui.plot.data import Figure

Value = dict[str, Any]


def listing(run: Run, found: Sequence[Checkpoint]) -> Value:
    """All checkpoints of a run. Sizes in bytes, times in seconds since the epoch."""
    newest, best = checkpoints.latest(found), checkpoints.best(found)
    return {
        "run": run.name,
        "path": str(run.path),
        "checkpoints": [row(item, newest, best) for item in found],
        "total_bytes": sum(item.bytes for item in found),
        "superseded_bytes": folder_bytes(run.superseded),
        "mirror": mirror(run),
    }


def mirror(run: Run) -> Value | None:
    """What was last told of the copies elsewhere; None if there never was one."""
    state = run.mirror
    if state is None:
        return None
    return {
        "url": state.url,
        "steps": [int(step) for copy in state.copies if (step := copy.partition(":")[0]).isdigit()],
        "copying": state.copying,
        "trouble": state.trouble or None,
        "other": state.other or None,
        "since": state.since,
        "at": state.at,
    }


def row(item: Checkpoint, newest: Checkpoint | None, best: Checkpoint | None) -> Value:
    """One checkpoint of `listing`."""
    return {
        "step": item.step,
        "path": str(item.path),
        "bytes": item.bytes,
        "modified": item.modified,
        "epoch": finite(item.facts.epoch),
        "loss": finite(item.facts.loss),
        "eval_loss": finite(item.facts.eval_loss),
        "eval_step": item.facts.eval_step,
        "learning_rate": finite(item.facts.learning_rate),
        "state": item.state,
        "reason": item.reason or None,
        "is_read": item.is_read,
        "latest": newest is not None and item.step == newest.step,
        "best": best is not None and item.step == best.step,
    }


def details(run: Run, item: Checkpoint, found: Sequence[Checkpoint]) -> Value:
    """One checkpoint with its files, for `latest`, `best` and `show`."""
    facts, seal = item.facts, item.seal
    return row(item, checkpoints.latest(found), checkpoints.best(found)) | {
        "run": run.name,
        "max_steps": facts.max_steps,
        "best_metric": finite(facts.best_metric),
        "best_loss": finite(facts.best_eval_loss),
        "seconds_trained": seal.seconds_trained if seal else None,
        "versions": dict(seal.versions) if seal else None,
        "files": _files(item),
    }


def _files(item: Checkpoint) -> list[Value]:
    return [{"name": name, "bytes": count} for name, count in item.files.items()]


def export(run: Run, found: Sequence[Checkpoint]) -> Value:
    """`listing` with what was logged and the files of each checkpoint.

    Each checkpoint holds the lines logged since the one before it, `log_history` of the
    whole all of them: a checkpoint's own history repeats every line before.
    """
    value = listing(run, found)
    told: list[Value] = []
    before = -1
    for entry, item in zip(value["checkpoints"], found, strict=True):
        entry |= {"log_history": [], "files": _files(item)}
        try:
            lines = checkpoints.read_state(item.path).get("log_history") or []
        except checkpoints.FaultError:
            continue
        entry["log_history"] = [
            finite(line)
            for line in lines
            if isinstance(line, dict) and before < _step(line) <= item.step
        ]
        told += entry["log_history"]
        before = item.step
    return value | {"log_history": told}


def _step(line: Value) -> float:
    step = line.get("step")
    return step if isinstance(step, int | float) else -1


def cleanup(run: Run, items: Sequence[Item]) -> Value:
    """A retention plan."""
    return {
        "run": run.name,
        "checkpoints": [
            {
                "step": item.checkpoint.step,
                "path": str(item.checkpoint.path),
                "bytes": item.checkpoint.bytes,
                "keep": item.keep,
                "strip": item.strip,
                "reasons": list(item.reasons),
            }
            for item in items
        ],
        "deleted_bytes": sum(item.freed for item in items),
    }


def verification(run: Run, found: Sequence[Checkpoint]) -> Value:
    """What `verify` found."""
    return {
        "run": run.name,
        "checkpoints": [verified(item) for item in found],
        "damaged": sum(item.state == "damaged" for item in found),
    }


def verified(item: Checkpoint) -> Value:
    """One checkpoint of `verification`."""
    return {
        "step": item.step,
        "path": str(item.path),
        "state": item.state,
        "reason": item.reason or None,
        "files": len(item.seal.files) if item.seal else None,
        "bytes": item.bytes,
    }


_OF_ACTIVITY = (
    *("phase", "training", "step", "max_steps", "epoch", "loss", "eval_loss", "grad_norm"),
    *("learning_rate", "steps_per_second", "eta_seconds"),
)


def status(now: Activity) -> Value:
    """What a run does now, or how it ended."""
    newest, told = now.checkpoint, now.status
    value = asdict(told) | {name: getattr(now, name) for name in _OF_ACTIVITY}
    value |= {
        "run": now.run.name,
        "path": str(now.run.path),
        "pid": told.pid or None if now.training else None,
        "host": told.host or None,
        "updated": told.updated or None,
        "last_checkpoint": newest.name if newest else None,
        "last_checkpoint_at": newest.modified if newest else None,
        "session": now.session.id if now.session else None,
        "end": asdict(now.end) if now.end else None,
        "pausing": now.asked is not None,
        "mirror": mirror(now.run),
    }
    if not now.training:
        value |= {"next_save_step": None, "next_save_at": None}
    shown: Value = finite(value)
    return shown


def run_row(now: Activity, found: Sequence[Checkpoint]) -> Value:
    """One run of `leviathan runs`."""
    return {
        "run": now.run.name,
        "path": str(now.run.path),
        "phase": now.phase,
        "step": now.step,
        "max_steps": now.max_steps,
        "checkpoints": len(found),
        "bytes": sum(item.bytes for item in found),
        "used": now.run.last_used(),
    }


def outcome(done: Outcome) -> Value:
    """What a request came to."""
    return {
        "run": done.run.name,
        "end": asdict(done.end) if done.end else None,
        "checkpoint": done.checkpoint,
        "host": done.host,
    }


def finite(value: Any) -> Any:
    """`value`, with None where JSON has no word for it (NaN, infinity), however deep."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    return [finite(part) for part in value] if isinstance(value, list) else value


def history(run: Run, past: Sequence[Past]) -> Value:
    """All sessions of a run, oldest first. Times in seconds since the epoch."""
    return {"run": run.name, "sessions": [finite(_session(one)) for one in past]}


def _session(past: Past) -> Value:
    end, verdict = past.end, past.verdict
    return {
        "session": past.session.id,
        "started": past.launch.started or None,
        "ended": end.at if end else None,
        "end": end.kind if end else ("training" if past.training else "lost"),
        "why": end.why if end else None,
        "first_step": past.first_step,
        "last_step": past.last_step,
        "first_loss": past.first_loss,
        "last_loss": past.last_loss,
        "verdict": verdict.word if verdict else None,
        "cause": verdict.cause if verdict else None,
        "hours": past.seconds / 3600 if past.seconds else None,
        "steps_per_second": past.steps_per_second,
        "resumed_from": past.launch.resume_from,
        "log": str(past.session.log),
    }


def log(run: Run, session: Session, content: bytes) -> Value:
    """The log of a session."""
    return {
        "run": run.name,
        "session": session.id,
        "path": str(session.log),
        "bytes": len(content),
        "lines": content.decode("utf-8", "replace").splitlines(),
    }


def plot(figures: Sequence[Figure]) -> Value:
    """All that `leviathan plot` draws, and every logged value, however many share a pixel."""
    return {
        "runs": [
            {
                "run": figure.name,
                "path": figure.path,
                "curves": {
                    name: {
                        "points": curve.points,
                        "superseded": curve.superseded,
                        "not_finite": curve.not_finite,
                    }
                    for name, curve in figure.curves.items()
                },
                "sessions": [asdict(mark) for mark in figure.sessions],
                "checkpoints": [asdict(saved) for saved in figure.checkpoints],
            }
            for figure in figures
        ]
    }


def dumps(value: Any) -> str:
    """`value` as the JSON that every `--json` prints."""
    return json.dumps(value, indent=2, allow_nan=False, default=str)
