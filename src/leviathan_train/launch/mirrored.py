"""A training whose checkpoints are copied elsewhere: what is fetched before, and sent after."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from leviathan_train.checkpoints import aside, store
from leviathan_train.checkpoints.retention import Policy
from leviathan_train.config.load import Config
from leviathan_train.errors import Declined, UsageError
from leviathan_train.launch.confirm import Dialog
from leviathan_train.launch.findings import Finding, Level, Topic, ok, refusal
from leviathan_train.launch.follow import Training
from leviathan_train.mirror import client
from leviathan_train.mirror.copies import Copy, CopyState, to_fetch
from leviathan_train.mirror.local import Sealed, named, set_aside, sha_of
from leviathan_train.mirror.place import Place, place_of
from leviathan_train.mirror.trouble import MirrorError, Trouble
from leviathan_train.run.folder import Run
from leviathan_train.run.lookup import in_command
from leviathan_train.run.session import Session
from leviathan_train.system import units

_POLL = 0.1
_TELL_EVERY = 10.0
_AGAIN = (2.0, 10.0)
"""Seconds before a place out of reach is looked at again."""
_PATIENCE, _LONGEST = 30.0, 600.0
"""Seconds for which the end of a command waits for a place that cannot be used, and for any."""


@dataclass(frozen=True)
class Mirror:
    """Where a run's checkpoints are copied to, and what stays there."""

    place: Place
    keep: Policy | None = None

    @classmethod
    def of(cls, run: Run, values: Mapping[str, Any], option: str | None) -> Mirror | None:
        """What `--mirror` and the config say; None if neither names a place.

        Raises:
            UsageError: it is no place, or would keep nothing.
        """
        place = place_of(run, values, option)
        return cls(place, client.policy_of(values)) if place else None


def fetch_newer(
    mirror: Mirror, run: Run, choice: str, dialog: Dialog, *, yes: bool, dry_run: bool
) -> tuple[str, store.Checkpoint | None]:
    """Fetch what a start resumes from, where the mirror has it and the run has not.

    Args:
        choice: see `resume.choose`.
        yes: fetch without a question.
        dry_run: only say what would be fetched.

    Returns:
        The choice to go on with: what was agreed to here is not asked again. And with `dry_run`
        the checkpoint that would be fetched, as if it lay in the run.

    Raises:
        Declined: the user said no.
        LeviathanError: nothing could be fetched, and the run itself has nothing to resume from.
    """
    place = mirror.place
    local = store.scan(run, store.Read.NOTHING)
    has_own = store.latest(local) is not None
    try:
        copies, other = _look(place, run, patient=not has_own and choice != "never")
    except MirrorError as error:
        if not has_own and choice != "never":
            hint = f"{error.hint} Start without what may be there:  --resume never"
            raise MirrorError(error.message, error.trouble, hint) from None
        dialog.tell(f"⚠️  {error.message} Training goes on; the copies are tried again.")
        return choice, None
    if other:
        dialog.tell(
            f"⚠️  {other} wrote at the mirror {place.shown} within the last minutes. If this run"
            " trains there, too, stop one of them: nothing is copied from here meanwhile."
        )
    wanted = to_fetch(choice, local, copies, set_aside(run))
    if not wanted:
        return choice, None
    first = f"{wanted[0].name} ({units.size(wanted[0].bytes)})"
    if dry_run:
        dialog.tell(f"{first} would be fetched from {place.shown}.")
        return choice, _as_if_here(run, wanted[0])
    if choice == "ask" and dialog.interactive and not yes:
        if not dialog.confirm(f"Fetch {first} from {place.shown}, and resume from it?"):
            raise Declined("Nothing was changed.", "Start over without it:  --resume never")
        choice = "auto"
    for number, copy in enumerate(wanted):
        try:
            dialog.tell(f"Fetching {copy.name} ({units.size(copy.bytes)}) from {place.shown}...")
            began = time.monotonic()
            path = fetch(place, run, copy, local, dialog.tell)
            seconds = units.duration(time.monotonic() - began)
            dialog.tell(f"✅ Fetched and verified {path.name} ({seconds})")
        except MirrorError as error:
            if error.trouble is not Trouble.DIFFERS or number == len(wanted) - 1:
                raise
            dialog.tell(f"⚠️  {error.message} The one before it is fetched.")
        else:
            break
    return choice, None


def _as_if_here(run: Run, copy: Copy) -> store.Checkpoint:
    """A copy as the checkpoint that it would be once it is fetched."""
    found = replace(copy.as_checkpoint(), path=run.checkpoint(copy.step))
    vars(found)["seal"] = copy.seal  # else it would be read from the folder that is not there yet
    return found


def findings(
    config: Config, run: Run, found: Sequence[store.Checkpoint], tell: Callable[[str], None]
) -> Iterator[Finding]:
    """Look whether the mirror that the config names can be used, and what it has.

    Args:
        found: the run's own checkpoints: without an intact one, a start needs the mirror.
        tell: called with one line before seconds may pass.
    """
    try:
        mirror = Mirror.of(run, config.values, None)
        if mirror is None or mirror.place.is_command:
            return
        tell(f"Looking at the mirror {mirror.place.shown}...")
        copies, other = client.look(mirror.place, run)
    except MirrorError as error:
        level = Level.WARNING if store.latest(list(found)) else Level.ERROR
        yield Finding(level, Topic.MIRROR, error.message, error.hint, error.exit_code)
        return
    except UsageError as error:
        yield refusal(Topic.MIRROR, error)
        return
    whole = [copy.step for copy in copies if copy.state is CopyState.WHOLE]
    has = f"it has {len(whole)} checkpoints, up to step {whole[-1]}" if whole else "it has none yet"
    message = f"The mirror {mirror.place.shown} can be read: {has}."
    if other:
        hint = "Two trainings of one name need two places."
        yield Finding(Level.WARNING, Topic.MIRROR, f"{message} {other} writes there now.", hint)
    else:
        yield ok(Topic.MIRROR, message)


def _look(place: Place, run: Run, *, patient: bool) -> tuple[list[Copy], str]:
    """What is there; a place out of reach is tried again if everything depends on it."""
    for wait in _AGAIN if patient else ():
        try:
            return client.look(place, run)
        except MirrorError as error:
            if error.trouble is not Trouble.UNREACHABLE:
                raise
            time.sleep(wait)
    return client.look(place, run)


def fetch(
    place: Place,
    run: Run,
    copy: Copy,
    local: Sequence[store.Checkpoint],
    tell: Callable[[str], None] = lambda line: None,
) -> Path:
    """Fetch a copy; a damaged checkpoint of the same step is set aside first.

    Args:
        local: the run's own checkpoints.
        tell: called every ten seconds with how far it is.

    Raises:
        LeviathanError: see `mirror.fetch.fetch`.
    """
    aside.set_aside(run, [item for item in local if item.step == copy.step and not item.intact])
    shown_at = time.monotonic()

    def on_bytes(done: int) -> None:
        nonlocal shown_at
        if time.monotonic() - shown_at > _TELL_EVERY:
            shown_at = time.monotonic()
            tell(f"   {units.size(done)} of {units.size(copy.bytes)}")

    return client.pull(place, run, copy, on_bytes)


@contextlib.contextmanager
def copied(
    mirror: Mirror | None, training: Training, is_told_to_end: Callable[[], bool], *, wait: bool
) -> Iterator[None]:
    """Have what a started training saves copied; with `wait`, at its end wait for the last copy."""
    if mirror is None:
        yield
        return
    plan = training.plan
    copying = Copying(mirror, plan.run, training.session, plan.offer.step)
    training.news = copying.news
    yield
    if wait:
        copying.finish(training.tell, is_told_to_end)


class Copying:
    """The process that copies what a session saves, as the command line sees it."""

    def __init__(self, mirror: Mirror, run: Run, session: Session, resumed_at: int) -> None:
        self._place = mirror.place
        self._run = run
        self._trouble = ""
        self._process = client.start(mirror.place, run, mirror.keep, session, resumed_at)

    def news(self) -> Iterator[str]:
        """What changed since the last call: trouble, or its end."""
        state = self._run.mirror
        trouble = client.trouble_of(state)
        if trouble == self._trouble or state is None or state.url != self._place.shown:
            return
        self._trouble = trouble
        if trouble:
            yield f"⚠️  Not copied to the mirror: {trouble.removesuffix('.')}. Training goes on."
        else:
            yield f"✅ The mirror {self._place.shown} is reached again."

    def finish(self, tell: Callable[[str], None], is_told_to_end: Callable[[], bool]) -> None:
        """Wait until the last checkpoint is copied; a signal, or trouble that stays, ends that.

        What is not copied yet goes on in the process of its own.
        """
        texts = Sealed(self._run).texts()
        if not texts:
            return
        step = max(texts)
        newest = named(step, sha_of(texts[step]))
        name, shown, told = f"checkpoint-{step}", self._place.shown, False
        began = time.monotonic()
        deadline = began + _PATIENCE
        while not self._has(newest) and time.monotonic() < began + _LONGEST:
            state = self._run.mirror
            trouble = client.trouble_of(state)
            if self._process.poll() is not None or is_told_to_end():
                break
            if not trouble:
                deadline = time.monotonic() + _PATIENCE
                if not told and state and state.copying:
                    tell(f"Copying {name} to {shown}... (Ctrl+C: it goes on in the background)")
                    told = True
            elif time.monotonic() > deadline:
                break
            time.sleep(_POLL)
        if self._has(newest):
            tell(f"✅ {name} is at {shown}")
            return
        why = client.trouble_of(self._run.mirror)
        more = f": {why}" if why else ""
        tell(
            f"⚠️  {name} is not at {shown} yet{more}. Copy it by hand:"
            f"  leviathan checkpoints push {in_command(self._run)}"
        )

    def _has(self, copy: str) -> bool:
        state = self._run.mirror
        return bool(state and state.url == self._place.shown and copy in state.copies)
