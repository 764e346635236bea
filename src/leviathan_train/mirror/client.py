"""The command line's side: the process that copies is started, and asked, from here.

fsspec's stores take a second to import and may hang, so that nothing of them lives in a process
that somebody waits for.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from leviathan_train.checkpoints.retention import Policy
from leviathan_train.checkpoints.seal import Seal
from leviathan_train.errors import LeviathanError, UsageError
from leviathan_train.mirror.copies import Copy, CopyState
from leviathan_train.mirror.place import URL_ENV, Place
from leviathan_train.mirror.trouble import MirrorError, Trouble
from leviathan_train.run.folder import Run
from leviathan_train.run.records import MirrorState
from leviathan_train.run.session import Session
from leviathan_train.system.processes import SESSION_ENV

LOOK_PATIENCE = 60.0
"""Seconds that a look at a place may take before a start goes on without it."""


def policy_of(values: Mapping[str, Any]) -> Policy | None:
    """What a config keeps at the mirror; None if it keeps all.

    Raises:
        UsageError: `leviathan_mirror_keep` is no number of at least 1.
    """
    keep = values.get("leviathan_mirror_keep")
    if keep is None:
        return None
    if not isinstance(keep, int) or isinstance(keep, bool) or keep < 1:
        raise UsageError(
            f"leviathan_mirror_keep: {keep} would delete the copy to go on from.",
            "Keep at least 1:  leviathan_mirror_keep: 1",
        )
    best, every = values.get("leviathan_keep_best"), values.get("leviathan_keep_every")
    return Policy(
        keep,
        every if isinstance(every, int) and every > 0 else None,
        int(best) if isinstance(best, int) else 1,
    )


def start(
    place: Place, run: Run, keep: Policy | None, session: Session, resumed_at: int
) -> subprocess.Popen[bytes]:
    """Start the process that copies what a session of the run saves. It outlives this one.

    Args:
        keep: what stays there.
        resumed_at: the step at which the session begins.
    """
    run.mirror_folder.mkdir(parents=True, exist_ok=True)
    told = json.dumps(asdict(keep)) if keep else "null"
    argv = _argv(
        "watch", run, "--keep", told, "--resumed-at", str(resumed_at), "--session", session.id
    )
    with (run.mirror_folder / "log").open("ab") as log:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_env(place),
            start_new_session=True,
        )


def look(place: Place, run: Run, *, patience: float = LOOK_PATIENCE) -> tuple[list[Copy], str]:
    """The copies at a place, oldest first, and who else writes there, if anybody does.

    Raises:
        MirrorError: it cannot be used, or does not answer within `patience` seconds.
    """
    if place.is_command:
        return [], ""
    value = _ask(place, _argv("look", run), patience=patience)
    return [_copy(one) for one in value["copies"]], str(value["other"])


def pull(place: Place, run: Run, copy: Copy, on_bytes: Callable[[int], None]) -> Path:
    """Fetch a copy; see `fetch.fetch`. Ctrl+C ends it, and what came so far stays."""
    argv = _argv("pull", run, "--step", str(copy.step))
    return Path(_ask(place, argv, on_event=lambda event: on_bytes(event["bytes"]))["path"])


def push(
    place: Place, run: Run, steps: Sequence[int], on_copy: Callable[[str], None], *, replace: bool
) -> list[str]:
    """Copy checkpoints now; the names of those that were copied.

    Args:
        on_copy: called with the name of each one before it is copied.
        replace: whether what another run's folder wrote there under the same name is replaced.

    Raises:
        LeviathanError: one of them cannot be copied.
    """
    argv = _argv("push", run, "--steps", ",".join(map(str, steps)))
    argv += ["--replace"] if replace else []
    value = _ask(place, argv, on_event=lambda event: on_copy(event["name"]))
    return [str(name) for name in value["names"]]


def trouble_of(state: MirrorState | None) -> str:
    """What keeps the copies from being made, in words; empty if nothing does."""
    if state is None:
        return ""
    if state.other:
        return f"{state.other} writes there, too; nothing is copied until that ends"
    return state.trouble


def _argv(verb: str, run: Run, *options: str) -> list[str]:
    module = "leviathan_train.jobs.mirror"
    return [sys.executable, "-m", module, verb, str(run.path.absolute()), *options]


def _env(place: Place) -> dict[str, str]:
    own = {URL_ENV: place.url, "CUDA_VISIBLE_DEVICES": "", "PYTHONUNBUFFERED": "1"}
    kept = {name: value for name, value in os.environ.items() if name != SESSION_ENV}
    return kept | own


def _ask(
    place: Place,
    argv: list[str],
    *,
    patience: float | None = None,
    on_event: Callable[[dict[str, Any]], None] = lambda event: None,
) -> dict[str, Any]:
    """Run a job to its answer; each line that comes before it is an event."""
    reader, writer = os.pipe()  # stdout is no channel: libraries write to it
    answer: dict[str, Any] | None = None
    errors: list[str] = []
    with (
        os.fdopen(reader) as lines,
        subprocess.Popen(
            [*argv, "--events", str(writer)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=_env(place),
            pass_fds=[writer],
            start_new_session=True,
        ) as child,
    ):
        os.close(writer)
        timer = threading.Timer(patience or 0.0, child.kill)
        drain = threading.Thread(target=lambda: errors.extend(child.stderr or ()))
        drain.start()
        if patience is not None:
            timer.start()
        try:
            for line in lines:
                event = json.loads(line)
                if event.get("event") == "answer":
                    answer = event
                else:
                    on_event(event)
            child.wait()
        finally:
            timer.cancel()
            child.kill()
            drain.join()
    if answer is None:
        if patience is not None and child.returncode == -9:
            why = f"it did not answer within {patience:.0f} s"
        else:
            why = errors[-1].strip() if errors else f"its process ended (exit {child.returncode})"
        raise MirrorError(f"The mirror {place.shown}: {why}.", Trouble.UNREACHABLE)
    if "error" in answer:
        message, hint = str(answer["error"]), answer.get("hint")
        if answer.get("trouble"):
            raise MirrorError(message, Trouble(answer["trouble"]), hint)
        raise LeviathanError(message, hint)
    return answer


def _copy(value: Mapping[str, Any]) -> Copy:
    state, seal = CopyState(value["state"]), Seal.from_json(value["seal"])
    return Copy(**{**value, "state": state, "seal": seal})
