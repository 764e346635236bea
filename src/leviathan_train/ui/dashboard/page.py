"""The page that `status --watch` draws of a snapshot; with `render` and `live` all that
knows rich.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from leviathan_train.system.gpu import Gpu
from leviathan_train.ui.dashboard.chart import Chart, chart, spark
from leviathan_train.ui.dashboard.snapshot import Point, Snapshot
from leviathan_train.ui.text import PHASES, duration, number, size

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.text import Text

# No dim, no yellow, no white: each of these can be read on black and on white.
_VALUE, _CURVE, _EVAL = "bold", "cyan", "magenta"
_GOOD, _NOTE, _BAD = "green", "magenta", "red"
_SILENT_FROM = 60.0
_WIDE, _WIDE_FROM_HEIGHT = 120, 24
_LABEL = 15
_SCALE = 8
_LEAST_CHART = 3

Part = str | tuple[str, str]
Parts = Sequence[Part]
Field = tuple[str, Parts]
"""A label and what stands beside it."""


def run_argument(now: Snapshot) -> str:
    return shlex.quote(now.target)


def steps(now: Snapshot) -> str:
    share = now.share
    return f"{now.step}" if share is None else f"{now.step} of {now.max_steps} ({share:.1%})"


def phase(now: Snapshot) -> str:
    word = PHASES.get(now.phase, now.phase)
    if now.asked:
        return f"pausing: {word}"
    return word if now.training or now.over else f"{word}, waiting to go on"


class Page:
    """A snapshot as a page that fills what room there is and never goes beyond it.

    Args:
        plain: draw curves in ASCII, for terminals that lack the characters.
    """

    def __init__(self, now: Snapshot, *, plain: bool = False) -> None:
        self.now = now
        self.plain = plain

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        lines = self.lines(options.max_width, options.height or console.size.height)
        yield Text("\n", no_wrap=True, overflow="crop", end="").join(lines)

    def lines(self, width: int, height: int) -> list[Text]:
        """At most `height` lines of at most `width` cells."""
        room = width - 2
        wide = width >= _WIDE and height >= _WIDE_FROM_HEIGHT
        head, foot = self._head(room), self._foot(room, wide)
        body = self._wide if wide else self._narrow
        lines = [*head, *body(room, height - len(head) - len(foot)), *foot]
        if len(lines) > height:  # a very low terminal: the commands stay
            lines = [*lines[: max(0, height - len(foot))], *foot][:height]
        for text in lines:
            text.truncate(room, overflow="ellipsis")
            text.pad_left(1)
            text.truncate(width)
        return lines

    # -- parts of the page -----------------------------------------------------------

    def _head(self, width: int) -> list[Text]:
        now = self.now
        style = _NOTE if now.asked else _GOOD if now.training else _BAD
        title = _text((now.run, _VALUE), "  ", (phase(now), style))
        time_of_day = datetime.fromtimestamp(now.at).strftime("%a %d %b %H:%M:%S")
        parts: list[Part] = []
        if now.eta_seconds is not None:
            due = _moment(now.at + now.eta_seconds, now.at, always_date=True)
            parts += ["ETA ", (duration(now.eta_seconds), _VALUE), f", {due}    "]
        if now.steps_per_second:
            each = 1 / now.steps_per_second
            parts += [(f"{now.steps_per_second:.3g}", _VALUE), " steps/s"]
            parts += [f" ({each:.3g} s a step)    " if each >= 1 else "    "]
        if not parts and now.started and now.training:
            parts.append(f"started {duration(now.at - now.started)} ago    ")
        if now.epoch is not None:
            parts += ["epoch ", (number(now.epoch, ".2f"), _VALUE)]
        return [
            _justified(title, _text(time_of_day), width),
            self._note(),
            self._bar(width),
            _text(*parts),
            _text(),
        ]

    def _note(self) -> Text:
        """What is out of the ordinary; mostly nothing."""
        now = self.now
        silent = now.at - now.heard if now.heard and now.training else 0.0
        if now.asked:
            left = now.asked.at + now.asked.grace - now.at
            ends = f"ends within {duration(left)}" if left > 0 else "ending hard"
            ago = duration(max(0.0, now.at - now.asked.at))
            return _text((f"Asked by {now.asked.by} {ago} ago; {ends}.", _NOTE))
        if silent > _SILENT_FROM:
            end_it = f"leviathan stop --now {run_argument(now)}"
            return _text((f"No sign of life for {duration(silent)}. End it with:  {end_it}", _BAD))
        if now.end:
            return _text((f"{now.end.kind}: {now.end.why}", _NOTE))
        return _text()

    def _bar(self, width: int) -> Text:
        share = self.now.share or 0.0
        told = f"  {steps(self.now)}" if self.now.step or self.now.max_steps else ""
        cells = max(0, width - len(told))
        done = int(share * cells)
        full, rest = ("#", "-") if self.plain else ("━", "─")
        return _text((full * done, _GOOD), rest * (cells - done), (told, _VALUE))

    def _foot(self, width: int, wide: bool) -> list[Text]:
        name = run_argument(self.now)
        pause, save = f"leviathan pause {name}", f"leviathan save {name}"
        leave = _text(("q", _VALUE), " closes this screen; the training goes on")
        one = _text((pause, _VALUE), "  save and stop      ", (save, _VALUE), "  save and go on")
        if wide and one.cell_len + leave.cell_len + 2 <= width:
            return [_text(), _justified(one, leave, width)]
        first = _text((pause, _VALUE), "  save and stop")
        second = _text((save, _VALUE), "   save and go on")
        for words in (leave, _text(("q", _VALUE), " closes this screen")):
            if second.cell_len + words.cell_len + 2 <= width:
                return [_text(), first, _justified(second, words, width)]
        return [_justified(_text(), words, width), first, second]

    def _narrow(self, width: int, height: int) -> list[Text]:
        facts = self._facts(width, process=height >= 24)
        if height - len(facts) >= 12:
            facts.insert(0, _text())
        left = height - len(facts)
        told = self._told(min(8, left - 16)) if left >= 20 else []
        return [*self._loss(width, left - len(told)), *facts, *told]

    def _wide(self, width: int, height: int) -> list[Text]:
        """Charts to the left; to the right the facts and, if they fit, the trainer's lines."""
        roomy = width >= 180
        side = 84 if roomy else 62
        left = width - side - 3
        facts = self._facts(side, process=True)
        if roomy and height >= 34:
            facts = [text for fact in facts for text in (fact, _text())]
        told = [] if roomy else self._told(min(10, height - 26))
        body = height - len(told)
        if roomy:
            facts += self._told(body - len(facts))
        return [*_beside(self._charts(left, body), facts, left)[:body], *told]

    def _charts(self, width: int, height: int) -> list[Text]:
        """The loss above, eval loss and learning rate side by side below."""
        now = self.now
        below = height // 3 if height >= 18 else 0
        half = (width - 3) // 2
        rate = [("Learning rate ", ""), (number(now.learning_rate, ".3e"), _VALUE)]
        evals = self._chart(self._eval_title(), now.eval_losses, half, below, _EVAL)
        rates = self._chart(rate, now.learning_rates, half, below, _GOOD, whole=True)
        return [*self._loss(width, height - below), *_beside(evals, rates, half)]

    def _told(self, count: int) -> list[Text]:
        """The trainer's own last lines, under an empty one."""
        lines = self.now.lines[-(count - 1) :] if count > 1 else ()
        return [_text(), *(_text(text) for text in lines)] if lines else []

    def _loss(self, width: int, height: int) -> list[Text]:
        title: list[Part] = ["Loss ", _value(self.now.loss)]
        return self._chart(title, self.now.losses, width, height, _CURVE)

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
            return [_text(*title)] if height > 0 else []
        drawn = chart(points, width - _SCALE, rows, whole=whole, braille=not self.plain)
        if drawn is None:
            return [_text(*title), _text("  nothing logged yet"), *(_text() for _ in range(rows))]
        lines = [_text(*title)]
        for index, row in enumerate(drawn.rows):
            lines.append(_text(f"{_scale(drawn, index):>{_SCALE - 1}} ", (row, style)))
        return [*lines, _text(" " * _SCALE, self._axis(drawn, width - _SCALE))]

    def _axis(self, drawn: Chart, width: int) -> str:
        """The steps below a chart, and where this session went on from an earlier one."""
        left = f"step {drawn.first}"
        right = f"step {drawn.last}" if drawn.last > drawn.first else ""
        axis = f"{left}{right:>{max(1, width - len(left))}}"
        seam = self.now.first_step or 0
        if drawn.first < seam < drawn.last:
            at = round((seam - drawn.first) / (drawn.last - drawn.first) * (width - 1))
            for mark in (f"^ resumed at {seam}", f"^ {seam}", "^"):
                end = at + len(mark)
                if at > len(left) + 1 and end + 1 < width - len(right):
                    return f"{axis[:at]}{mark}{axis[end:]}"
        return axis

    def _eval_title(self) -> list[Part]:
        now = self.now
        title: list[Part] = ["Eval loss ", _value(now.eval_loss)]
        if len(now.eval_losses) > 1:
            step, value = min(now.eval_losses, key=lambda point: point[1])
            title.append(f"  best {number(value)} at step {step}")
        return title

    def _eval(self, width: int) -> Field:
        _, value, *best = self._eval_title()
        values = [point[1] for point in self.now.eval_losses]
        used = _LABEL + sum(len(_plain_part(part)) for part in (value, *best)) + 2
        room = min(24, width - used)
        last = " ".join(number(item) for item in values[-3:]) if self.plain else spark(values, room)
        return "Eval loss", [value, *best, "  ", (last if len(values) > 1 else "", _EVAL)]

    def _rates(self) -> Text:
        now = self.now
        rate = number(now.learning_rate, ".3e")
        left = _field("Learning rate", [(rate, _VALUE)])
        gap = " " * max(2, 30 - len(left))
        return _text(left, gap, "Grad norm  ", _value(now.grad_norm, ".3g"))

    def _facts(self, width: int, *, process: bool) -> list[Text]:
        now = self.now
        facts: list[Field] = [(f"GPU {gpu.index}", self._gpu(gpu)) for gpu in now.gpus[:2]]
        if len(now.gpus) > 2:
            facts.append(("", [f"and {len(now.gpus) - 2} more"]))
        if not now.gpus and now.gpu_memory_bytes:
            facts.append(("GPU memory", [(size(now.gpu_memory_bytes), _VALUE), " by the trainer"]))
        facts.append(("Next save", self._next_save()))
        facts.append(("Last seal", self._last_seal()))
        if now.until and now.training:
            left = duration(max(0.0, now.until - now.at))
            facts.append(("Pauses by", [(_moment(now.until, now.at), _VALUE), f", in {left}"]))
        facts.append(("Disk", self._disk()))
        facts.append(("Session", self._session()))
        if process and now.training and now.pid:
            facts.append(("Process", [f"{now.pid} on {now.host}"]))
        fields = [_field(*field) for field in facts]
        return [_field(*self._eval(width)), self._rates(), *fields]

    def _gpu(self, gpu: Gpu) -> list[Part]:
        cells = 12
        done = round(cells * gpu.used_bytes / gpu.total_bytes) if gpu.total_bytes else 0
        full, rest = ("#", "-") if self.plain else ("━", "─")
        parts: list[Part] = [(full * done, _CURVE), rest * (cells - done), " "]
        parts += [(size(gpu.used_bytes), _VALUE), f" of {size(gpu.total_bytes)}"]
        if gpu.utilisation is not None:
            parts += ["  ", (f"{gpu.utilisation}%", _VALUE), " busy"]
        return [*parts, f"  {gpu.name.removeprefix('NVIDIA ')}"]

    def _next_save(self) -> list[Part]:
        now = self.now
        parts: list[Part] = []
        if now.next_save_step:
            parts += ["step ", (str(now.next_save_step), _VALUE)]
            if now.steps_per_second and now.next_save_step >= now.step:
                parts.append(
                    f" in {duration((now.next_save_step - now.step) / now.steps_per_second)}"
                )
        if now.next_save_at:
            left = duration(max(0.0, now.next_save_at - now.at))
            due = _moment(now.next_save_at, now.at)
            parts += [", or " if parts else "", (f"at {due}", _VALUE), f" in {left}"]
        return parts or ["-"]

    def _last_seal(self) -> list[Part]:
        now = self.now
        if not now.last_checkpoint or now.last_checkpoint_at is None:
            return ["none yet"]
        age = duration(max(0.0, now.at - now.last_checkpoint_at))
        return [(now.last_checkpoint, _VALUE), f", {age} ago, {size(now.checkpoint_bytes)}"]

    def _disk(self) -> list[Part]:
        now, room = self.now, self.now.room
        if now.disk_free_bytes is None:
            return ["-"]
        short = room is not None and room < 3
        style = _BAD if short else _VALUE
        parts: list[Part] = [(size(now.disk_free_bytes), style), " free"]
        if room is not None:
            parts += [", room for ", (f"{room:,}", style), " more checkpoints"]
        return parts

    def _session(self) -> list[Part]:
        now = self.now
        parts: list[Part] = [(str(now.sessions), _VALUE), " so far"]
        if now.started and now.training:
            since = _moment(now.started, now.at)
            parts += [f", this one since {since}, ", (duration(now.at - now.started), _VALUE)]
        return parts


def _text(*parts: Part | Text) -> Text:
    from rich.text import Text

    return Text.assemble(*parts, no_wrap=True, end="")


def _plain_part(part: Part) -> str:
    return part if isinstance(part, str) else part[0]


def _value(value: float | None, form: str = ".4g") -> Part:
    """A number that stands out, and more so where it is none (NaN, infinity)."""
    sound = value is None or abs(value) < float("inf")
    return number(value, form), _VALUE if sound else f"{_VALUE} {_BAD}"


def _field(label: str, parts: Parts) -> Text:
    return _text(f"{label:<{_LABEL}}", *parts)


def _justified(left: Text, right: Text, width: int) -> Text:
    """Two texts at both ends of a line; the right one goes where there is no room."""
    gap = width - left.cell_len - right.cell_len
    return _text(left, " " * gap, right) if gap >= 2 else left


def _beside(left: Sequence[Text], right: Sequence[Text], width: int) -> list[Text]:
    """Two columns, the left one `width` cells wide."""
    lines = []
    for index in range(max(len(left), len(right))):
        text = left[index].copy() if index < len(left) else _text()
        text.truncate(width, overflow="ellipsis", pad=True)
        lines.append(_text(text, "   ", right[index]) if index < len(right) else text)
    return lines


def _scale(drawn: Chart, row: int) -> str:
    """What stands to the left of a row of a chart."""
    last = len(drawn.rows) - 1
    if row == 0:
        return _short(drawn.top)
    if row == last:
        return _short(drawn.bottom) if drawn.top > drawn.bottom else ""
    return _short(drawn.middle) if last >= 4 and row == last // 2 else ""


def _short(value: float) -> str:
    """A number in at most seven characters."""
    if value and not 0.001 <= abs(value) < 10_000:
        return f"{value:.1e}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _moment(at: float, now: float, *, always_date: bool = False) -> str:
    """A time as people say it: the date only if it is not today."""
    moment = datetime.fromtimestamp(at)
    same = moment.date() == datetime.fromtimestamp(now).date()
    return moment.strftime("%H:%M" if same and not always_date else "%a %d %b %H:%M")
