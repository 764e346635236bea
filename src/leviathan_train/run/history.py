"""The sessions of a run: when, how far, why each ended, and whether it went on smoothly."""

from __future__ import annotations

import re

from leviathan_train.run.folder import Run, Session
from leviathan_train.system.files import read_json
from leviathan_train.ui.values import Value, begun, finite

_LOSS = re.compile(r"^Step \d+: loss=([-+\d.einfa]+)", re.M)


def history(run: Run) -> Value:
    """All sessions, oldest first. Times in seconds since the epoch."""
    return {"run": run.name, "sessions": [_row(session) for session in run.sessions()]}


def _row(session: Session) -> Value:
    launch, begin, end, status = session.launch, begun(session), session.end, session.status
    verdict = read_json(session.path / "seam.json") or {}
    first = begin.get("first_step")
    last = end.step if end and end.step is not None else (status.step if status else None)
    ended = end.at if end else None
    if first is None:
        last = None
    steps = last - first if first is not None and last is not None else 0
    seconds = (ended or (status.updated if status else 0)) - begin.get("at", 0) if begin else 0
    losses = _losses(session)
    return {
        "session": session.id,
        "started": launch.get("started"),
        "ended": ended,
        "end": end.kind if end else ("training" if session.alive() else "lost"),
        "why": end.why if end else None,
        "first_step": first,
        "last_step": last,
        "first_loss": finite(losses[0]) if losses else None,
        "last_loss": finite(losses[-1]) if losses else None,
        "verdict": verdict.get("word"),
        "cause": verdict.get("cause"),
        "hours": seconds / 3600 if seconds else None,
        "steps_per_second": steps / seconds if steps and seconds > 0 else None,
        "resumed_from": launch.get("resume_from"),
        "log": str(session.log),
    }


def _losses(session: Session) -> list[float]:
    """The losses that a session logged, oldest first."""
    try:
        text = session.screen_file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return [float(loss) for loss in _LOSS.findall(text)]
