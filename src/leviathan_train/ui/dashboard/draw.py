"""The page that `status --watch` draws of a snapshot."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from leviathan_train.system import signs
from leviathan_train.system.units import duration, moment
from leviathan_train.ui.dashboard.chart import Chart, chart, recent
from leviathan_train.ui.dashboard.curves import Point
from leviathan_train.ui.dashboard.facts import eval_loss, facts, value
from leviathan_train.ui.dashboard.layout import (
    BAD,
    CURVE,
    EVAL,
    GOOD,
    NOTE,
    VALUE,
    Parts,
    bar,
    beside,
    fitted,
    justified,
    text,
)
from leviathan_train.ui.dashboard.snapshot import Snapshot
from leviathan_train.ui.text import number, one_line, phase, steps

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.text import Text

_SILENT_FROM = 60.0
"""Seconds without a sign of life from which the page says so."""
_BESIDE_FROM = 118
"""Cells from which the facts stand beside the curves, and not below."""
_LOSS_LINES, _CHART_LINES = 16, 18
"""Lines that the loss keeps before the trainer's lines are shown below, and lines from which
the other curves are drawn."""
_CHARTS_FROM = 76
"""Cells from which two curves stand side by side."""
_SCALE = 8
_LEAST_CHART = 3


class Page:
    """A snapshot as a page that fills what room there is and never goes beyond it.

    Args:
        plain: draw in ASCII, for terminals that lack the characters.
    """

    def __init__(self, now: Snapshot, *, plain: bool = False) -> None:
        self.now = now
        self.run = now.activity
        self.plain = plain

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        lines = self.lines(options.max_width, options.height or console.size.height)
        yield Text("\n", no_wrap=True, overflow="crop", end="").join(lines)

    def lines(self, width: int, height: int) -> list[Text]:
        """At most `height` lines of at most `width` cells."""
        room = width - 2
        head, foot = self._head(room), self._foot(room)
        lines = [*head, *self._body(room, height - len(head) - len(foot)), *foot]
        if len(lines) > height:  # a very low terminal: the commands stay
            lines = [*lines[: max(0, height - len(foot))], *foot][:height]
        for line in lines:
            if not line.plain.isprintable():  # a name may hold escapes
                line.plain = "".join(char if char.isprintable() else "?" for char in line.plain)
            if self.plain:
                line.plain = signs.plain(line.plain)
            line.truncate(room, overflow="crop" if self.plain else "ellipsis")
            line.pad_left(1)
            line.truncate(width)
        return lines

    def _head(self, width: int) -> list[Text]:
        run = self.run
        style = NOTE if run.asked else GOOD if run.training else BAD
        title = text((run.run.name, VALUE), "  ", (phase(run), style))
        time_of_day = datetime.fromtimestamp(run.at).strftime("%a %d %b %H:%M:%S")
        return [
            justified(title, text(time_of_day), width),
            self._note(),
            self._bar(width),
            self._pace(width),
            text(),
        ]

    def _note(self) -> Text:
        """What is out of the ordinary; mostly nothing."""
        run = self.run
        heard = run.status.updated if run.training else 0.0
        if run.asked:
            left = run.asked.at + run.asked.grace - run.at
            ends = f"ends within {duration(left)}" if left > 0 else "overdue, being killed"
            ago = duration(max(0.0, run.at - run.asked.at))
            return text((f"Asked by {run.asked.by} {ago} ago; {ends}.", NOTE))
        if heard and run.at - heard > _SILENT_FROM:
            kill = f"leviathan stop --now {shlex.quote(self.now.target)}"
            silent = duration(run.at - heard)
            return text((f"No sign of life for {silent}. Kill it with:  {kill}", BAD))
        if run.end:
            return text((f"{run.end.kind}: {one_line(run.end.why)}", NOTE))
        return text()

    def _bar(self, width: int) -> Text:
        told = f"  {steps(self.run)}" if self.run.step or self.run.max_steps else ""
        cells = max(0, width - len(told))
        return text(*bar(self.run.share or 0.0, cells, GOOD, plain=self.plain), (told, VALUE))

    def _pace(self, width: int) -> Text:
        run, told = self.run, list[Parts]()
        if run.eta_seconds is not None:
            due = moment(run.at + run.eta_seconds, run.at, always_date=True)
            told.append(["ETA ", (duration(run.eta_seconds), VALUE), f", {due}"])
        if run.steps_per_second:
            each = 1 / run.steps_per_second
            slow = f" ({each:.3g} s a step)" if each >= 1 and width >= 70 else ""
            told.append([(f"{run.steps_per_second:.3g}", VALUE), f" steps/s{slow}"])
        if not told and run.launch.started and run.training:
            told.append([f"started {duration(run.at - run.launch.started)} ago"])
        if run.epoch is not None:
            told.append(["epoch ", (number(run.epoch, ".2f"), VALUE)])
        first, *more = told or [[]]
        return fitted(width, first, *(["   ", *parts] for parts in more))

    def _foot(self, width: int) -> list[Text]:
        name = shlex.quote(self.now.target)
        pause = text((f"leviathan pause {name}", VALUE), "  save and stop")
        save = text((f"leviathan save {name}", VALUE), "   save and continue")
        leave = text(("q", VALUE), " closes this screen")
        for words in (text(leave, "; training continues"), leave):
            if save.cell_len + words.cell_len + 2 <= width:
                return [text(), pause, justified(save, words, width)]
        return [justified(text(), leave, width), pause, save]

    def _body(self, width: int, height: int) -> list[Text]:
        """Curves, facts and the trainer's own lines: the facts beside the curves, or below."""
        wide = width >= _BESIDE_FROM
        side = min(84, max(62, width * 2 // 5)) if wide else width
        told = list(facts(self.now, side, plain=self.plain))
        if wide:
            if height >= 2 * len(told) + _LOSS_LINES:
                told = [part for line in told for part in (line, text())]
            told += self._lines(height - len(told))
            left = width - side - 3
            return beside(self._charts(left, height), told, left)[:height]
        told = told[: max(7, height - 9)]  # the last ones matter least
        if height - len(told) >= 12:
            told.insert(0, text())
        left = height - len(told)
        lines = self._lines((left - _LOSS_LINES) // 2)
        return [*self._charts(width, left - len(lines)), *told, *lines]

    def _lines(self, count: int) -> list[Text]:
        """The trainer's own last lines, `count` in all, under an empty one."""
        lines = self.now.lines[-(count - 1) :] if count > 1 else ()
        return [text(), *map(text, lines)] if lines else []

    def _charts(self, width: int, height: int) -> list[Text]:
        """The loss; below it, if there is room, eval loss and learning rate side by side."""
        now = self.now
        below = height // 3 if height >= _CHART_LINES and width >= _CHARTS_FROM else 0
        title: Parts = ["Loss ", value(self.run.loss)]
        lines = self._chart(title, recent(now.losses), width, height - below, CURVE)
        if not below:
            return lines
        half = (width - 3) // 2
        evals: Parts = ["Eval loss ", *(part for parts in eval_loss(now) for part in parts)]
        rate: Parts = ["Learning rate ", (number(self.run.learning_rate, ".3e"), VALUE)]
        left = self._chart(evals, recent(now.eval_losses), half, below, EVAL)
        right = self._chart(rate, now.learning_rates, half, below, GOOD, whole=True)
        return [*lines, *beside(left, right, half)]

    def _chart(
        self,
        title: Parts,
        points: Sequence[Point],
        width: int,
        height: int,
        style: str,
        *,
        whole: bool = False,
    ) -> list[Text]:
        """A curve under its title, `height` lines in all; none where that is too low."""
        rows = height - 2
        if rows < _LEAST_CHART:
            return [text(*title)] if height > 0 else []
        drawn = chart(points, width - _SCALE, rows, whole=whole, braille=not self.plain)
        if drawn is None:
            return [text(*title), text("  nothing logged yet"), *(text() for _ in range(rows))]
        lines = [text(*title)]
        for index, row in enumerate(drawn.rows):
            lines.append(text(f"{_scale(drawn, index):>{_SCALE - 1}} ", (row, style)))
        begin = self.run.begin.first_step if self.run.begin else 0
        return [*lines, text(" " * _SCALE, _axis(drawn, begin, width - _SCALE))]


def _axis(drawn: Chart, begin: int, width: int) -> str:
    """The steps below a chart, and where this session resumed from an earlier one."""
    left = f"step {drawn.first}"
    right = f"step {drawn.last}" if drawn.last > drawn.first else ""
    if len(left) + 2 + len(right) > width:
        return left
    axis = f"{left}{right:>{width - len(left)}}"
    if drawn.first < begin < drawn.last:
        at = round((begin - drawn.first) / (drawn.last - drawn.first) * (width - 1))
        for mark in (f"^ resumed at {begin}", f"^ {begin}", "^"):
            end = at + len(mark)
            if at > len(left) + 1 and end + 1 < width - len(right):
                return f"{axis[:at]}{mark}{axis[end:]}"
    return axis


def _scale(drawn: Chart, row: int) -> str:
    """What stands to the left of a row of a chart."""
    last = len(drawn.rows) - 1
    if row == 0:
        return _short(drawn.top)
    if row == last:
        return _short(drawn.bottom) if drawn.top > drawn.bottom else ""
    return _short(drawn.middle) if last >= 4 and row == last // 2 else ""


def _short(height: float) -> str:
    """A number in at most seven characters."""
    if height and not 0.001 <= abs(height) < 10_000:
        return f"{height:.1e}"
    return f"{height:.3g}" if abs(height) < 1000 else f"{height:.0f}"
