"""The terminal during a training: lines above, a bar with the ETA below."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from leviathan_train.ui import text as render

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

    from leviathan_train.checkpoints.store import Checkpoint
    from leviathan_train.launch.resume import Offer
    from leviathan_train.run.folder import Run
    from leviathan_train.run.records import End, Status


class Screen:
    """The terminal during a training: lines above, a bar with the ETA below."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._live: Live | None = None
        self._console: Console | None = None
        self._terminal = sys.stdout.isatty() and not quiet
        self._phase = ""

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
        """Say what was found to go on from."""
        for checkpoint in offer.damaged:
            self.line(f"⚠️  {checkpoint.name} is not intact: {checkpoint.reason}.")
        if offer.note:
            self.line(offer.note)
        if offer.checkpoint:
            self.line(f"🔄 FOUND EXISTING CHECKPOINT: step {offer.checkpoint.step}")
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

    def progress(self, status: Status | None, pausing: bool) -> None:
        """Draw what the trainer tells of itself."""
        phase = render.PHASES.get(status.phase, status.phase) if status else "starting"
        if not self._terminal:
            if status and phase != self._phase and status.phase in {"data", "model", "training"}:
                if not (self._phase in {"saving", "evaluating"} and status.phase == "training"):
                    self.line(f"{phase[0].upper()}{phase[1:]}...")
                self._phase = phase
            return
        with contextlib.suppress(OSError):
            if self._live is None:
                from rich.live import Live

                self._console = render.console()
                self._live = Live(console=self._console, refresh_per_second=4, transient=True)
                self._live.start()
            self._live.update(_bar(phase, status, pausing))

    def close(self) -> None:
        """Take the bar away."""
        if self._live:
            with contextlib.suppress(OSError):
                self._live.stop()
            self._live = None

    def outcome(self, run: Run, again: str, end: End, status: int) -> None:
        """Say how it ended and what to type next: `again` starts or resumes the run."""
        if end.kind == "paused":
            self.line(f"Go on with:  {again}")
        elif end.kind == "finished":
            self.line(f"Make a model of it with:  leviathan merge {run.name}")
        elif end.kind == "killed":
            self.line(f"Ended hard: {end.why}.")
            if status == 75:
                self.line(f"Go on from {end.checkpoint or 'the last checkpoint'} with:  {again}")
            else:
                self.line(f"No checkpoint was saved yet. Start again with:  {again}")
        elif end.kind == "stopped":
            self.line(f"Start again with:  {again}")


def _bar(phase: str, status: Status | None, pausing: bool) -> RenderableType:
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 1), expand=False)
    word = "pausing: " + phase if pausing else phase
    cells: list[RenderableType] = [Text(word, style="bold yellow" if pausing else "bold cyan")]
    if status and status.max_steps:
        share = 100 * status.step / status.max_steps
        cells.append(ProgressBar(total=status.max_steps, completed=status.step, width=24))
        cells.append(Text(f"{status.step}/{status.max_steps} {share:.0f}%"))
        if status.steps_per_second:
            cells.append(Text(f"{status.steps_per_second:.3g} steps/s"))
        if status.eta_seconds is not None and status.phase != "starting":
            cells.append(Text(f"ETA {render.duration(status.eta_seconds)}"))
    for _ in cells:
        table.add_column(no_wrap=True)
    table.add_row(*cells)
    return table
