"""`leviathan status --watch`: a screen that stays open until the run ends, or lines without
a terminal. `draw` draws what is on the screen.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING

from leviathan_train.launch import outcome as ending
from leviathan_train.launch.activity import Activity, Feed
from leviathan_train.run import lookup
from leviathan_train.run.folder import Run
from leviathan_train.run.records import End, Ending
from leviathan_train.system.units import clock, duration
from leviathan_train.ui.text import console, folded, number, one_line, phase, steps

if TYPE_CHECKING:
    from typing import Any, TextIO

LOOK_EVERY = 0.5
"""Seconds between two looks at the run on a terminal; elsewhere it is twice as long."""
LINE_EVERY = 5.0
"""Seconds between two lines where there is no terminal."""


def watch(run: Run) -> None:
    """Show a run until it ends; `q` and Ctrl+C close the screen, and nothing else.

    Where stdout is not a terminal, a line is printed every few seconds instead.
    """
    screen = sys.stdout.isatty() and os.environ.get("TERM") not in {"dumb", "unknown"}
    try:
        with _closed_by_signals():
            last = _draw(run) if screen else _print(run)
    except KeyboardInterrupt:
        if not screen:
            return
        last = Feed(run).look()
    for told in summary(last):
        print(folded(told, sys.stdout), flush=True)


def _draw(run: Run) -> Activity:
    """Keep the screen until the run ends or the user leaves it; the last look at the run."""
    if (now := Feed(run).look()).over:
        return now
    from rich.live import Live

    from leviathan_train.ui.dashboard.draw import Page
    from leviathan_train.ui.dashboard.snapshot import Camera

    screen, camera = console(), Camera(run)
    with _Keys(sys.stdin) as pressed, Live(console=screen, screen=True, auto_refresh=False) as live:
        while not (snapshot := camera.look()).activity.over:
            live.update(Page(snapshot, plain=screen.options.ascii_only), refresh=True)
            if pressed(LOOK_EVERY):
                break
    return snapshot.activity


def _print(run: Run) -> Activity:
    """Print a line for each change, but few seconds apart at the most, until the run ends."""
    feed = Feed(run)
    shown, shown_at = ("", -1), 0.0
    while not (now := feed.look()).over:
        state = (phase(now), now.step)
        if state != shown and (state[0] != shown[0] or time.monotonic() - shown_at >= LINE_EVERY):
            print(f"{clock(now.at)} {line(now)}", flush=True)
            shown, shown_at = state, time.monotonic()
        time.sleep(2 * LOOK_EVERY)
    return now


def line(now: Activity) -> str:
    """What a run does, in one line."""
    told = [phase(now)]
    if now.step or now.max_steps:
        told.append(f"step {steps(now)}")
    if now.loss is not None:
        told.append(f"loss {number(now.loss)}")
    if now.learning_rate is not None:
        told.append(f"learning rate {now.learning_rate:.3e}")
    if now.steps_per_second:
        told.append(f"{now.steps_per_second:.3g} steps/s")
    if now.eta_seconds is not None:
        told.append(f"ETA {duration(now.eta_seconds)} ({clock(now.at + now.eta_seconds)})")
    return ", ".join(told)


def summary(now: Activity) -> list[str]:
    """How a run stands when the screen closes, and what to type next."""
    name, target = now.run.name, lookup.in_command(now.run)
    if not now.over:
        due = f", ETA {duration(now.eta_seconds)}" if now.eta_seconds is not None else ""
        at = f", step {steps(now)}{due}" if now.step else ""
        return [
            f"{name} continues: {phase(now)}{at}.",
            f"Save and stop it with:  leviathan pause {target}",
        ]
    at = f"at step {steps(now)}" if now.step else "before its first step"
    if now.end:
        return _ending(now, now.end, at, target)
    start = lookup.start_again(now.launch)
    if now.session is None:
        stands = f", stands {at}." if now.step else " yet."
        return [f"{name} is not training{stands}", f"Start it with:  {start}"]
    return [f"{name} ended {at}; its end was not recorded.", f"Resume with:  {start}"]


def _ending(now: Activity, end: End, at: str, target: str) -> list[str]:
    name, start, why = now.run.name, lookup.start_again(now.launch), one_line(end.why).rstrip(".")
    if end.kind is Ending.FINISHED:
        losses = [f"loss {number(now.loss)}"] if now.loss is not None else []
        losses += [f"eval loss {number(now.eval_loss)}"] if now.eval_loss is not None else []
        return [
            ", ".join([f"{name} finished at step {now.step}", *losses]) + ".",
            f"Merge it with:  leviathan merge {target}",
        ]
    if end.kind is Ending.PAUSED:
        saved = f", saved as {end.checkpoint}" if end.checkpoint else ""
        return [f"{name} paused {at}{saved}: {why}.", f"Resume with:  {start}"]
    if end.kind is Ending.CRASHED:
        return [
            f"{name} crashed {at}: {why}.",
            ending.advice(now.run, end),
            f"The whole log: {now.session.log if now.session else now.run.logs}",
            f"The command:  {start}",
        ]
    word = "was killed" if end.kind is Ending.KILLED else "stopped"
    left = f"Resume from {now.checkpoint.name}" if now.checkpoint else "Start again"
    return [f"{name} {word} {at}: {why}.", f"{left} with:  {start}"]


class _Keys:
    """The keyboard while the screen is open: a key is heard without Enter, and not shown."""

    def __init__(self, stream: TextIO) -> None:
        self._fd: int | None = None
        self._before: Any = None
        with contextlib.suppress(OSError, ValueError):
            self._fd = stream.fileno() if stream.isatty() else None

    def __enter__(self) -> Callable[[float], bool]:
        if self._fd is not None:
            with contextlib.suppress(termios.error):
                self._before = termios.tcgetattr(self._fd)
                tty.setcbreak(self._fd)
        return self.left

    def left(self, seconds: float) -> bool:
        """Whether the user leaves the screen within `seconds`."""
        if self._fd is None:
            time.sleep(seconds)
            return False
        until = time.monotonic() + seconds
        while (rest := until - time.monotonic()) > 0:
            if not select.select([self._fd], [], [], rest)[0]:
                return False
            pressed = os.read(self._fd, 64)
            if not pressed or pressed in {b"q", b"Q"}:  # nothing: the terminal is gone
                return True
        return False

    def __exit__(self, *_: object) -> None:
        if self._fd is not None and self._before is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)


@contextlib.contextmanager
def _closed_by_signals() -> Iterator[None]:
    """Let SIGTERM and a closed terminal end the screen, but restore the terminal first."""

    def close(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, close) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
