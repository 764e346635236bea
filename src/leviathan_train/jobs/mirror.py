"""The process that copies checkpoints elsewhere, and fetches them: all that needs fsspec.

    python -m leviathan_train.jobs.mirror watch|look|push|pull RUN [options]

The place comes in the environment, see `mirror.place.URL_ENV`. `look`, `push` and `pull` write
events as JSON lines to a pipe, the last of them the answer.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil

from leviathan_train.checkpoints.retention import Policy
from leviathan_train.checkpoints.seal import FaultError
from leviathan_train.errors import LeviathanError
from leviathan_train.mirror.copies import Copy, CopyState
from leviathan_train.mirror.fetch import fetch
from leviathan_train.mirror.local import Sealed, names_of, sha_of
from leviathan_train.mirror.place import URL_ENV, Place
from leviathan_train.mirror.remote import Owner, Remote
from leviathan_train.mirror.trouble import MirrorError, Trouble
from leviathan_train.mirror.watch import BEAT, CommandStore, Store, Task, Watcher, writer_of
from leviathan_train.run.folder import Run
from leviathan_train.run.records import MirrorState
from leviathan_train.system.files import write_json
from leviathan_train.system.locks import locked

_LATELY = 3 * BEAT
"""Seconds within which somebody who wrote at a place may still be at work there."""
_EVENTS_EVERY = 0.2
"""Seconds."""


def main() -> None:
    """Do what the arguments say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=("watch", "look", "push", "pull"))
    parser.add_argument("run", type=Path)
    parser.add_argument("--events", type=int)
    parser.add_argument("--step", type=int)
    parser.add_argument("--steps", default="")
    parser.add_argument("--replace", action="store_true")
    parser.add_argument("--keep", default="null")
    parser.add_argument("--resumed-at", type=int)
    parser.add_argument("--session", default="")
    parser.add_argument("--beat", type=float, default=BEAT)
    args = parser.parse_args()
    run = Run(args.run)
    place = Place(os.environ.pop(URL_ENV), run.name)
    if args.verb == "watch":
        watch(run, place, args)
        return
    with os.fdopen(args.events, "w", buffering=1) as stream:

        def tell(event: str, **values: Any) -> None:
            stream.write(json.dumps({"event": event, **values}, default=str) + "\n")

        try:
            tell("answer", **_VERBS[args.verb](run, place, args, tell))
        except MirrorError as error:
            tell("answer", error=error.message, hint=error.hint, trouble=error.trouble)
        except LeviathanError as error:
            tell("answer", error=error.message, hint=error.hint)
        except (OSError, FaultError) as error:
            tell("answer", error=str(error), hint=None)


def watch(run: Run, place: Place, args: argparse.Namespace) -> None:
    """Copy as long as the run's session lives, and then what is left; one process for a run."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _step_back()
    keep = json.loads(args.keep)
    policy = Policy(**keep) if keep else None
    task = Task(run, place.shown, policy, args.resumed_at, args.session, args.beat)
    with locked(run.mirror_folder / "lock"):
        Watcher(task, lambda: _store(place)).run()


def _store(place: Place) -> Store:
    return CommandStore(place.command) if place.is_command else Remote(place)


def _step_back() -> None:
    """Let everything else go first: the training shall not feel this process."""
    os.nice(19)
    with contextlib.suppress(psutil.Error, OSError, ValueError):
        psutil.Process().ionice(psutil.IOPRIO_CLASS_IDLE)


def look(run: Run, place: Place, args: argparse.Namespace, tell: Any) -> dict[str, Any]:
    """All copies, and who else wrote there lately."""
    remote = Remote(place)
    found, owner = remote.copies(), remote.owner()
    lately = owner is not None and time.time() - owner.at < _LATELY
    other = _other(owner, run) if lately else ""
    return {"copies": [_as_json(copy) for copy in found], "other": other}


def _other(owner: Owner | None, run: Run) -> str:
    """Who else writes there; empty if nobody does."""
    if owner is None or owner.writer in {"", writer_of(run)}:
        return ""
    return f"{owner.host}:{owner.folder}"


def _as_json(copy: Copy) -> dict[str, Any]:
    return asdict(copy) | {"seal": copy.seal.to_json() if copy.seal else None}


def pull(run: Run, place: Place, args: argparse.Namespace, tell: Any) -> dict[str, Any]:
    """Fetch the copy of one step."""
    remote = Remote(place)
    copies = remote.copies()
    found = [copy for copy in copies if copy.step == args.step]
    if not found or found[0].state is not CopyState.WHOLE:
        why = found[0].reason or found[0].state if found else "there is none"
        raise LeviathanError(f"No whole copy of checkpoint-{args.step} at {place.shown}: {why}.")
    told_at = 0.0

    def on_bytes(count: int) -> None:
        nonlocal told_at
        if time.monotonic() - told_at > _EVENTS_EVERY:
            told_at = time.monotonic()
            tell("bytes", bytes=count)

    path = fetch(run, remote, found[0], on_bytes)
    _note(run, place, copies)
    return {"path": str(path)}


def push(run: Run, place: Place, args: argparse.Namespace, tell: Any) -> dict[str, Any]:
    """Copy the named steps, where they are not there yet."""
    store = _store(place)
    copies = {copy.step: copy for copy in store.copies()}
    other = _other(store.owner(), run)
    texts = Sealed(run).texts()
    names = []
    for step in (int(part) for part in args.steps.split(",") if part):
        path, text, there = run.checkpoint(step), texts[step], copies.get(step)
        whole = there is not None and there.state is CopyState.WHOLE
        if there and whole and there.seal_sha == sha_of(text):
            continue
        if whole and other and not args.replace:
            raise MirrorError(
                f"The mirror {place.shown} holds another {path.name}, written by {other}.",
                Trouble.DIFFERS,
                "Replace it with:  --yes",
            )
        tell("copy", name=path.name)
        store.upload(path, text, there)
        names.append(path.name)
    with contextlib.suppress(MirrorError):  # all is there, and that is what counts
        _note(run, place, store.copies() if names else copies.values())
    return {"names": names}


def _note(run: Run, place: Place, copies: Iterable[Copy]) -> None:
    """Note what a place holds, as the run's mirror unless a training of it has another one.

    The process beside a training tells more, so that nothing is noted while one is there.
    """
    if place.is_command:
        return
    with contextlib.suppress(OSError), locked(run.mirror_folder / "lock", wait=False):
        known = run.mirror or MirrorState()
        if known.pid and known.url != place.shown:
            return
        told = replace(known, url=place.shown, trouble="", since=None, at=time.time())
        write_json(run.mirror_file, asdict(replace(told, copies=names_of(copies))))


_VERBS = {"look": look, "push": push, "pull": pull}

if __name__ == "__main__":
    main()
