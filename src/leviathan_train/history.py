"""The sessions of a run: when, how far, why each ended, and whether it went on smoothly."""

from __future__ import annotations

from typing import Any

from leviathan_train import checkpoints
from leviathan_train.files import read_json
from leviathan_train.report import Value, begun, finite
from leviathan_train.run import Run, Session


def history(run: Run) -> Value:
    """All sessions, oldest first. Times in seconds since the epoch."""
    log = _logged(run)
    return {"run": run.name, "sessions": [_row(session, log) for session in run.sessions()]}


def _row(session: Session, log: dict[int, float]) -> Value:
    launch, begin, end, status = session.launch, begun(session), session.end, session.status
    verdict = read_json(session.path / "seam.json") or {}
    first = begin.get("first_step")
    last = end.step if end and end.step is not None else (status.step if status else None)
    ended = end.at if end else None
    if first is None:
        last = None
    steps = last - first if first is not None and last is not None else 0
    seconds = (ended or (status.updated if status else 0)) - begin.get("at", 0) if begin else 0
    inside = [step for step in log if first is not None and first < step <= (last or 0)]
    return {
        "session": session.id,
        "started": launch.get("started"),
        "ended": ended,
        "end": end.kind if end else ("training" if session.alive() else "lost"),
        "why": end.why if end else None,
        "first_step": first,
        "last_step": last,
        "first_loss": finite(log[min(inside)]) if inside else None,
        "last_loss": finite(log[max(inside)]) if inside else None,
        "verdict": verdict.get("word"),
        "cause": verdict.get("cause"),
        "hours": seconds / 3600 if seconds else None,
        "steps_per_second": steps / seconds if steps and seconds > 0 else None,
        "resumed_from": launch.get("resume_from"),
        "log": str(run_log(session)),
    }


def run_log(session: Session) -> str:
    """Where the session's whole output is."""
    return str(session.path.parents[2] / "logs" / f"training_{session.id}.log")


def _logged(run: Run) -> dict[int, float]:
    """Loss by step, from the newest checkpoint that can be read."""
    for _, path in reversed(checkpoints.folders(run)):
        try:
            entries: list[Any] = checkpoints.read_state(path).get("log_history") or []
        except checkpoints.FaultError:
            continue
        return {entry["step"]: entry["loss"] for entry in entries if "loss" in entry}
    return {}
