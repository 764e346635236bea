"""The terminal during a training: lines above, a bar with the ETA below."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from leviathan_train.errors import PAUSED
from leviathan_train.run.records import Ending, Phase
from leviathan_train.system import signs
from leviathan_train.ui import text as render

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

    from leviathan_train.checkpoints.store import Checkpoint
    from leviathan_train.config.load import Config
    from leviathan_train.launch.activity import Activity
    from leviathan_train.launch.resume import Offer
    from leviathan_train.run.folder import Run
    from leviathan_train.run.records import End

_BAR, _LEAST_BAR = 24, 6
"""Cells of the bar, and cells below which it is left out."""
_TOLD = frozenset({Phase.DATA, Phase.MODEL, Phase.TRAINING})
"""Phases that have a line of their own where there is no bar."""


class Screen:
    """The terminal during a training: lines above, a bar with the ETA below."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._live: Live | None = None
        self._console: Console | None = None
        self._terminal = sys.stdout.isatty() and not quiet
        self._phase: str = ""

    def line(self, text: str) -> None:
        """Show one line; a terminal that went away is no reason to stop."""
        with contextlib.suppress(OSError):
            if self._quiet:
                return
            if self._live:
                self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)
            else:
                print(text, flush=True)

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
                names = ", ".join(item.name for item in left)
                self.line(f"   Newer ones will be set aside in {run.superseded}: {names}")

    def loss_of_all(self, found: Sequence[Checkpoint]) -> None:
        """Say what deleting every checkpoint would lose."""
        steps = max((item.step for item in found), default=0)
        from leviathan_train.launch import resume

        hours = resume.seconds_lost(found)
        trained = f", {render.duration(hours)} of training" if hours else ""
        total = render.size(sum(item.bytes for item in found))
        them = render.count(len(found), "checkpoint")
        self.line(f"This deletes {them}: {steps} steps{trained}, {total}.")

    def progress(self, now: Activity) -> None:
        """Draw what the trainer does; without a terminal, tell each phase once."""
        if not self._terminal:
            if now.phase in _TOLD and now.phase != self._phase:
                self.line(f"{render.PHASES.get(now.phase, now.phase).capitalize()}...")
                self._phase = now.phase
            return
        with contextlib.suppress(OSError):
            if self._live is None:
                from rich.live import Live

                self._console = render.console()
                self._live = Live(console=self._console, refresh_per_second=4, transient=True)
                self._live.start()
            self._live.update(_bar(now, self._live.console.width))

    def close(self) -> None:
        """Take the bar away."""
        if self._live:
            with contextlib.suppress(OSError):
                self._live.stop()
            self._live = None

    def outcome(self, run: Run, config: Config, end: End, status: int) -> None:
        """Say how it ended and what to type next."""
        again = config.command
        if end.kind is Ending.PAUSED:
            self.line(f"Resume with:  {again}")
        elif end.kind is Ending.FINISHED:
            self.line(f"Merge it with:  leviathan merge {run.name}")
        elif end.kind is Ending.KILLED:
            self.line(f"Killed: {render.one_line(end.why)}.")
            if status == PAUSED:
                self.line(f"Resume from {end.checkpoint or 'the last checkpoint'} with:  {again}")
            else:
                self.line(f"No checkpoint was saved yet. Start again with:  {again}")
        elif end.kind is Ending.STOPPED:
            self.line(f"Start again with:  {again}")


def _bar(now: Activity, width: int) -> RenderableType:
    """One line of at most `width` cells; the bar itself takes what the numbers leave."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    cells: list[RenderableType] = [
        Text(render.phase(now), style="bold magenta" if now.asked else "bold cyan")
    ]
    told = []
    if now.share is not None:
        told.append(f"{now.step}/{now.max_steps} {now.share:.0%}")
        if now.steps_per_second:
            told.append(f"{now.steps_per_second:.3g} steps/s")
        if now.eta_seconds is not None:
            told.append(f"ETA {render.duration(now.eta_seconds)}")
        left = width - sum(len(part) + 2 for part in [render.phase(now), *told])
        if left >= _LEAST_BAR:
            bar = ProgressBar(total=now.max_steps, completed=now.step, width=min(_BAR, left))
            cells.append(bar)
    table = Table.grid(padding=(0, 1), expand=False)
    table.add_row(*cells, *(Text(part, no_wrap=True) for part in told))
    return table
