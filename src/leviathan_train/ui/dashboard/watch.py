"""`leviathan status --watch`: a screen that stays open until the run ends, or lines without
a terminal. What is on the screen is drawn by `page`.
"""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO

from leviathan_train.launch import outcome as ending
from leviathan_train.run.folder import Run
from leviathan_train.ui.dashboard.page import Page, phase, run_argument, steps
from leviathan_train.ui.dashboard.snapshot import Feed, Snapshot
from leviathan_train.ui.text import clock, console, duration, number

if TYPE_CHECKING:
    from rich.console import Console

LOOK_EVERY = 0.5
"""Seconds between two looks at the run, on a terminal."""
LINE_EVERY = 5.0
"""Seconds between two lines where there is no terminal."""


def watch(
    run: Run,
    *,
    feed: Feed | None = None,
    out: TextIO | None = None,
    keys: TextIO | None = None,
    look_every: float | None = None,
) -> None:
    """Show a run until it ends; `q` and Ctrl+C close the screen, and nothing else.

    Where `out` is no terminal, a line is printed every few seconds instead.
    """
    out = out or sys.stdout
    keys = keys or sys.stdin
    feed = feed or Feed(run)
    screen = out.isatty() and os.environ.get("TERM") not in {"dumb", "unknown"}
    try:
        with _closed_by_signals():
            if screen:
                last = _draw(feed, keys, look_every or LOOK_EVERY)
            else:
                last = _print(feed, out, look_every or 2 * LOOK_EVERY)
    except KeyboardInterrupt:
        if not screen:
            return
        last = feed.look()
    for line in summary(last):
        print(line, file=out, flush=True)


def _draw(feed: Feed, keys: TextIO, look_every: float) -> Snapshot:
    """Keep the screen until the run ends or the user leaves it; the last look at the run."""
    now = feed.look()
    if now.over:
        return now
    from rich.live import Live

    screen = console()
    with _Keys(keys) as pressed, Live(console=screen, screen=True, auto_refresh=False) as live:
        while not now.over:
            live.update(Page(now, plain=_plain(screen)), refresh=True)
            if pressed(look_every):
                break
            now = feed.look()
    return now


def _print(feed: Feed, out: TextIO, look_every: float) -> Snapshot:
    """Print a line for each change, but few seconds apart at the most, until the run ends."""
    shown, shown_at = ("", -1), 0.0
    while not (now := feed.look()).over:
        state = (phase(now), now.step)
        if state != shown and (state[0] != shown[0] or time.monotonic() - shown_at >= LINE_EVERY):
            print(f"{clock(now.at)} {line(now)}", file=out, flush=True)
            shown, shown_at = state, time.monotonic()
        time.sleep(look_every)
    return now


def line(now: Snapshot) -> str:
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


def summary(now: Snapshot) -> list[str]:
    """How a run stands when the screen closes, and what to type next."""
    end, name = now.end, now.run
    start = _start(now)
    if not now.over:
        due = f", ETA {duration(now.eta_seconds)}" if now.eta_seconds is not None else ""
        at = f", step {steps(now)}{due}" if now.step else ""
        return [
            f"{name} goes on: {phase(now)}{at}.",
            f"Save and stop it with:  leviathan pause {run_argument(now)}",
        ]
    at = f"at step {steps(now)}" if now.step else "before its first step"
    if end is None:
        if now.session is None:
            told = f"{name} is not training" + (f", stands {at}." if now.step else " yet.")
            return [told, f"Start it with:  {start}"]
        return [f"{name} ended {at} without a word.", f"Go on with:  {start}"]
    if end.kind == "finished":
        losses = [f"loss {number(now.loss)}"] if now.loss is not None else []
        losses += [f"eval loss {number(now.eval_loss)}"] if now.eval_loss is not None else []
        return [
            ", ".join([f"{name} finished at step {now.step}", *losses]) + ".",
            f"Make a model of it with:  leviathan merge {run_argument(now)}",
        ]
    if end.kind == "paused":
        saved = f", saved as {end.checkpoint}" if end.checkpoint else ""
        return [f"{name} paused {at}{saved}: {end.why}.", f"Go on with:  {start}"]
    if end.kind == "crashed":
        log = Run(Path(now.path)).logs / f"training_{now.session}.log"
        return [
            f"{name} crashed {at}: {end.why.rstrip('.')}.",
            ending.advice(Run(Path(now.path)), end),
            f"The whole log: {log}    The command: {start}",
        ]
    word = "stopped" if end.kind == "stopped" else "was ended hard"
    left = f"Go on from {now.last_checkpoint} with" if now.last_checkpoint else "Start again with"
    return [f"{name} {word} {at}: {end.why}.", f"{left}:  {start}"]


def _start(now: Snapshot) -> str:
    """The command that goes on with a run, from the folder that the user is in."""
    config = shlex.quote(now.config) if now.config else "CONFIG"
    there = now.cwd and now.config and not Path(now.config).is_absolute()
    if there and now.cwd and Path(now.cwd) != Path.cwd():
        return f"cd {shlex.quote(now.cwd)} && leviathan train {config}"
    return f"leviathan train {config}"


def _plain(screen: Console) -> bool:
    """Whether the terminal lacks braille: another encoding than UTF-8, or the bare console."""
    return screen.options.ascii_only or os.environ.get("TERM") == "linux"


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
