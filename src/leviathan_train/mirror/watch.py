"""The process that copies a run's checkpoints elsewhere, while the run trains.

It reads the run's folder and nothing else: the training knows nothing of it, and goes on
whatever becomes of it. It ends when the session is over and nothing is left to copy.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from leviathan_train.checkpoints.retention import Policy
from leviathan_train.checkpoints.seal import FaultError
from leviathan_train.mirror import copies as plans
from leviathan_train.mirror.copies import Copy, CopyState
from leviathan_train.mirror.local import Sealed, names_of, set_aside, sha_of
from leviathan_train.mirror.remote import Owner
from leviathan_train.mirror.trouble import MirrorError, Trouble
from leviathan_train.run.folder import Run
from leviathan_train.run.records import MirrorState
from leviathan_train.system import processes
from leviathan_train.system.files import write_json

BEAT = 60.0
"""Seconds after which a writer says again that it is there."""
_POLL = 1.0
_FIRST_WAIT, _LONGEST_WAIT = 5.0, 60.0
"""Seconds until the next try: twice as long after each that fails."""
_PATIENCE = 3600.0
"""Seconds for which a place is still tried after the training has ended."""


class Store(Protocol):
    """What is needed of `remote.Remote`."""

    def copies(self) -> list[Copy]: ...
    def upload(self, path: Path, text: bytes, present: Copy | None = None) -> None: ...
    def set_aside(self, copy: Copy) -> None: ...
    def delete(self, copy: Copy) -> None: ...
    def owner(self) -> Owner | None: ...
    def claim(self, owner: Owner) -> None: ...


@dataclass(frozen=True)
class Task:
    """What to copy where.

    Attributes:
        keep: what stays there; None keeps all.
        resumed_at: the step at which the session begins; newer copies are of a branch that it
            leaves.
        session: id of the session that it works for; one that follows starts its own process.
        beat: see `BEAT`.
    """

    run: Run
    url: str
    keep: Policy | None = None
    resumed_at: int | None = None
    session: str = ""
    beat: float = BEAT


class Watcher:
    """Copies until nothing is left to copy.

    Args:
        store: opened when it is first needed; a place may be out of reach for hours.
        clock: the monotonic clock, in seconds.
    """

    def __init__(
        self,
        task: Task,
        open_store: Callable[[], Store],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._task = task
        self._run = task.run
        self._open_store = open_store
        self._clock = clock
        self._sleep = sleep
        self._store: Store | None = None
        self._sealed = Sealed(task.run)
        self._copied: dict[int, str] = {}
        """SHA-256 of the seal of each step that is whole there."""
        self._refused: set[str] = set()
        """Seals of checkpoints that are not as they were sealed."""
        self._branch_left = task.resumed_at is None
        self._has_looked = False
        self._me = Owner(writer_of(task.run), processes.hostname(), str(task.run.path.resolve()))
        self._other: tuple[Owner, float] | None = None
        """Who else wrote there last, and when that was first seen."""
        self._claimed_at: float | None = None
        self._wait = _FIRST_WAIT
        self._state = MirrorState(task.url, os.getpid(), processes.hostname())

    def run(self) -> None:
        """Copy until the session is over and nothing is left, or cannot be for an hour."""
        over_since: float | None = None
        while True:
            session = self._run.live_session()
            if session and self._task.session not in {"", session.id}:
                return
            wait = self._turn(beat=session is not None)
            if session is None:
                over_since = over_since or self._clock()
                if self._state.done or self._clock() - over_since > _PATIENCE:
                    self._release()
                    return
            self._sleep(wait)

    def _release(self) -> None:
        """Let another machine write there at once."""
        if self._store and self._claimed_at is not None:
            with contextlib.suppress(MirrorError):
                self._store.claim(Owner())

    def _turn(self, *, beat: bool) -> float:
        """Do what there is to do; the seconds until the next look."""
        due = beat and self._claim_is_due()
        if self._has_looked and not due and not self._pending():
            self._tell(done=True, copying=None)
            return _POLL
        self._tell(done=False)
        try:
            store = self._store = self._store or self._open_store()
            if not self._is_mine(store):
                return min(_LONGEST_WAIT, self._task.beat)
            if self._pending() or not self._has_looked:
                self._bring_up_to_date(store)
        except MirrorError as error:
            self._store = None
            told = self._state.since if self._state.trouble else time.time()
            self._tell(trouble=error.message, since=told, copying=None)
            self._wait = min(_LONGEST_WAIT, self._wait * 2)
            return self._wait
        self._wait = _FIRST_WAIT
        self._tell(trouble="", since=None, other="", copying=None, done=not self._pending())
        return _POLL

    def _pending(self) -> list[int]:
        """The steps that are to be copied, the newest first, as far as is known here."""
        known = [Copy("", step, CopyState.WHOLE, "", sha) for step, sha in self._copied.items()]
        sealed = {step: sha_of(text) for step, text in self._sealed.texts().items()}
        sealed = {step: sha for step, sha in sealed.items() if sha not in self._refused}
        return plans.to_copy(sealed, known, self._task.keep)

    def _is_mine(self, store: Store) -> bool:
        """Whether this run's folder is the one that writes there.

        Another one is alive while what it wrote keeps changing: two machines' clocks say nothing
        of each other.
        """
        found, now = store.owner(), self._clock()
        if found is None or found.writer in {"", self._me.writer}:
            self._other = None
            if self._claim_is_due():
                self._claim(store)
            return True
        if self._other is None or self._other[0] != found:
            self._other = (found, now)
        if now - self._other[1] < 2.5 * self._task.beat:
            self._tell(other=f"{found.host}:{found.folder}", copying=None)
            return False
        self._claim(store)
        return False  # of two that claim at once, the next look tells which one it is

    def _claim_is_due(self) -> bool:
        return self._claimed_at is None or self._clock() - self._claimed_at >= self._task.beat

    def _claim(self, store: Store) -> None:
        store.claim(replace(self._me, at=time.time()))
        self._claimed_at = self._clock()

    def _bring_up_to_date(self, store: Store) -> None:
        copies = store.copies()
        texts = self._sealed.texts()
        sealed = {step: sha_of(text) for step, text in texts.items()}
        if not self._branch_left and self._task.resumed_at is not None:
            for copy in plans.to_set_aside(copies, sealed, self._task.resumed_at):
                store.set_aside(copy)
                print(f"{copy.name} set aside there: its branch was left", flush=True)
            self._branch_left = True
            copies = store.copies()
        self._know(copies)
        there = {copy.step: copy for copy in copies}
        for step in self._pending():
            if step not in texts:
                continue  # sealed since; it is copied at the next turn
            path = self._run.checkpoint(step)
            self._tell(copying=path.name)
            try:
                store.upload(path, texts[step], there.get(step))
            except FileNotFoundError:
                continue  # retention was faster
            except (FaultError, OSError) as error:
                self._refused.add(sealed[step])
                print(f"{path.name} is not copied: {error}", flush=True)
            else:
                print(f"{path.name} copied", flush=True)
                self._copied[step] = sealed[step]
                self._tell(trouble="", since=None)
            if set(self._sealed.texts()) - set(texts):
                break  # a newer one goes first
        self._prune(store)

    def _prune(self, store: Store) -> None:
        copies = store.copies()
        going = plans.abandoned(copies, dict.fromkeys(self._sealed.texts(), ""))
        if self._task.keep is not None:
            going += plans.to_prune(copies, self._task.keep, set_aside(self._run))
        for copy in dict.fromkeys(going):
            store.delete(copy)
            print(f"{copy.name} deleted there ({copy.state})", flush=True)
        self._know(store.copies() if going else copies)
        self._has_looked = True

    def _know(self, copies: list[Copy]) -> None:
        whole = [copy for copy in copies if copy.state is CopyState.WHOLE]
        self._copied = {copy.step: copy.seal_sha for copy in whole}
        self._tell(copies=names_of(copies))

    def _tell(self, **changes: Any) -> None:
        state = replace(self._state, **changes)
        if state == self._state:
            return
        self._state = state
        with contextlib.suppress(OSError):  # a full disk must not end the copies
            write_json(self._run.mirror_file, asdict(replace(state, at=time.time())))


class CommandStore:
    """A place that only a command of the user's knows: copies go there, and are not seen again.

    Args:
        command: makes the command for a checkpoint's folder.
    """

    def __init__(self, command: Callable[[Path], str]) -> None:
        self._command = command
        self._copies: dict[int, Copy] = {}

    def copies(self) -> list[Copy]:
        return [self._copies[step] for step in sorted(self._copies)]

    def upload(self, path: Path, text: bytes, present: Copy | None = None) -> None:
        """Run the command; its exit status tells whether the copy is there."""
        done = subprocess.run(
            self._command(path),
            shell=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        if done.returncode:
            lines = done.stdout.decode(errors="replace").strip().splitlines()
            why = lines[-1] if lines else "no message"
            raise MirrorError(
                f"The command of leviathan_mirror failed (exit {done.returncode}): {why[:300]}",
                Trouble.UNREACHABLE,
            )
        step = int(path.name.rpartition("-")[2])
        self._copies[step] = Copy(path.name, step, CopyState.WHOLE, "", sha_of(text))

    def set_aside(self, copy: Copy) -> None: ...
    def delete(self, copy: Copy) -> None: ...
    def owner(self) -> Owner | None:
        return None

    def claim(self, owner: Owner) -> None: ...


def writer_of(run: Run) -> str:
    """The random name of a run's folder, made once."""
    file = run.mirror_folder / "writer"
    with contextlib.suppress(OSError):
        return f"{processes.hostname()}-{file.read_text().strip()}"
    file.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError), file.open("x") as stream:
        stream.write(secrets.token_hex(8))
    return f"{processes.hostname()}-{file.read_text().strip()}"
