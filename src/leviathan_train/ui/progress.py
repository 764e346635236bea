"""The terminal during a training: lines above, a bar with the ETA below."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from leviathan_train.errors import PAUSED
from leviathan_train.run.lookup import in_command
from leviathan_train.run.records import Ending, Phase
from leviathan_train.system import signs
from leviathan_train.ui import text as render
from leviathan_train.ui.dashboard.layout import CURVE, GOOD, NOTE, VALUE, Parts, bar, fitted

if TYPE_CHECKING:
    from rich.live import Live
    from rich.text import Text

    from leviathan_train.checkpoints.store import Checkpoint
    from leviathan_train.launch.activity import Activity
    from leviathan_train.launch.resume import Offer
    from leviathan_train.run.folder import Run
    from leviathan_train.run.records import End

_BAR, _LEAST_BAR = 24, 6
"""Cells of the bar, and cells below which it is left out."""
_TOLD = frozenset({Phase.STARTING, Phase.DATA, Phase.MODEL, Phase.TRAINING})
"""Phases that have a line of their own where there is no bar."""


class Screen:
    """The terminal during a training: lines above, a bar with the ETA below."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._live: Live | None = None
        self._terminal = sys.stdout.isatty() and not quiet
        self._phase: str = ""

    def line(self, text: str) -> None:
        """Show one line; a terminal that went away is no reason to stop."""
        text = render.plain_lines(text)
        with contextlib.suppress(OSError):
            if self._quiet:
                return
            text = render.folded(text, sys.stdout)
            if self._live:
                self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)
            else:
                print(text, flush=True)

    def command(self, words: Sequence[str]) -> None:
        """Show a command in one line, which the terminal breaks, so that it can be copied."""
        if not self._quiet:
            print(render.plain(shlex.join(words)), flush=True)

    def offer(self, run: Run, offer: Offer) -> None:
        """Say what was found to resume from."""
        for checkpoint in offer.damaged:
            self.line(f"{signs.WARNING} {checkpoint.name} is not intact: {checkpoint.reason}.")
        if offer.note:
            self.line(offer.note)
        if offer.checkpoint:
            self.line(f"{signs.RESUME} FOUND EXISTING CHECKPOINT: step {offer.checkpoint.step}")
            self.line("   Training will resume from this point")
        left = [item for item in offer.newer if item not in offer.damaged]
        if left:
            which = "   The others" if offer.checkpoint else "The run's checkpoints"
            if all(item.step > offer.step for item in left) and offer.checkpoint:
                which = "   Newer ones"
            names = ", ".join(item.name for item in left)
            self.line(f"{which} will be set aside in {run.superseded}: {names}")

    def loss_of_all(self, found: Sequence[Checkpoint]) -> None:
        """Say what deleting every checkpoint would lose."""
        steps = max((item.step for item in found), default=0)
        from leviathan_train.launch import resume

        lost = resume.seconds_lost(found)
        trained = f", {render.duration(lost)} of training" if lost else ""
        total = render.size(sum(item.bytes for item in found))
        them = render.count(len(found), "checkpoint")
        self.line(f"This deletes {them}: {steps} steps{trained}, {total}.")

    def progress(self, now: Activity) -> None:
        """Draw what the trainer does; without a terminal, tell each phase once."""
        if not self._terminal:
            if now.phase in _TOLD and now.phase != self._phase:
                word = render.PHASES.get(now.phase, now.phase)
                last = render.last_start(now) if now.phase is Phase.STARTING else ""
                self.line(f"{word[0].upper()}{word[1:]}...{last}")
                self._phase = now.phase
            return
        with contextlib.suppress(OSError):
            if self._live is None:
                from rich.live import Live

                self._live = Live(console=render.console(), refresh_per_second=4, transient=True)
                self._live.start()
            screen = self._live.console
            self._live.update(progress_line(now, screen.width, plain=screen.options.ascii_only))

    def close(self) -> None:
        """Take the bar away."""
        if self._live:
            with contextlib.suppress(OSError):
                self._live.stop()
            self._live = None

    def outcome(self, run: Run, again: str, end: End, status: int) -> None:
        """Say how it ended and what to type next: `again` starts or resumes the run."""
        if end.kind is Ending.PAUSED:
            self.line(f"Resume with:  {again}")
        elif end.kind is Ending.FINISHED:
            self.line(f"Merge it with:  leviathan merge {in_command(run)}")
        elif end.kind is Ending.KILLED:
            self.line(f"Killed: {render.one_line(end.why)}.")
            if status == PAUSED:
                self.line(f"Resume from {end.checkpoint or 'the last checkpoint'} with:  {again}")
            else:
                self.line(f"No checkpoint was saved yet. Start again with:  {again}")
        elif end.kind is Ending.STOPPED:
            self.line(f"Start again with:  {again}")


def progress_line(now: Activity, width: int, *, plain: bool = False) -> Text:
    """What the training does in at most `width` cells: the bar takes what the numbers leave.

    Args:
        plain: draw in ASCII.
    """
    word = render.phase(now)
    told: list[str] = []
    if now.share is not None:
        told.append(f"{now.step}/{now.max_steps} {now.share:.0%}")
        if now.eta_seconds is not None:
            told.append(f"ETA {render.duration(now.eta_seconds)}")
        if now.steps_per_second:
            told.append(f"{now.steps_per_second:.3g} steps/s")
    if now.waited is not None:
        told.append(f"{render.duration(now.waited)}{render.last_start(now)}")
    more: list[Parts] = [["  ", part] for part in told]
    room = width - len(word) - sum(len(part) + 2 for part in told) - 2
    if now.share is not None and room >= _LEAST_BAR:
        more.insert(0, ["  ", *bar(now.share, min(_BAR, room), GOOD, plain=plain)])
    line = fitted(width, [(word, f"{VALUE} {NOTE if now.asked else CURVE}")], *more)
    line.truncate(width)
    return line
