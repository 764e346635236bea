#!/usr/bin/env python
"""Draw docs/session.svg, the picture of a pause and a resume in the README.

It is drawn from docs/session.ansi, what a real terminal showed, so that it can be made again:

    python scripts/make_session_picture.py
    python scripts/make_session_picture.py --record    first train, pause and resume in a tmux

A recording trains configs/demo_cpu.yaml in a temporary folder, some minutes on two cores.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

from make_demo import make_demo
from make_picture import DOCS, with_fonts

CONFIG = "configs/demo_cpu.yaml"
RECORD = DOCS / "session.ansi"
PATIENCE = 900.0
WIDTH = 96


class Terminal:
    """A shell in a tmux of its own, driven by keys."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self._tmux = ["tmux", "-u", "-L", f"leviathan-{os.getpid()}", "-f", "/dev/null"]
        size = ["-x", str(WIDTH), "-y", "60"]
        shell = ["env", "PS1=$ ", "bash", "--norc", "--noprofile"]
        self._run("new-session", "-d", *size, "-c", str(folder), *shell, env=env)

    def _run(self, *words: str, env: dict[str, str] | None = None) -> str:
        done = subprocess.run(
            [*self._tmux, *words], env=env, check=True, capture_output=True, text=True
        )
        return done.stdout

    def type(self, text: str) -> None:
        """Type a line and press Enter."""
        self._run("send-keys", "-l", text)
        self._run("send-keys", "Enter")

    def press(self, key: str) -> None:
        self._run("send-keys", key)

    def screen(self, *, colours: bool = False) -> str:
        """What is on the screen; with `colours`, as the codes that draw it."""
        return self._run("capture-pane", "-p", *(["-e"] if colours else []))

    def wait(self, pattern: str, times: int = 1) -> None:
        """Wait until the screen shows a pattern so many times."""
        deadline = time.monotonic() + PATIENCE
        while len(re.findall(pattern, self.screen(), re.M)) < times:
            if time.monotonic() > deadline:
                raise TimeoutError(f"never shown: {pattern}\n{self.screen()}")
            time.sleep(0.1)

    def close(self) -> None:
        self._run("kill-server")


def record() -> str:
    """Train, press Ctrl+C, resume, and return what the screen shows then."""
    root = DOCS.parent
    with tempfile.TemporaryDirectory(prefix="leviathan-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "configs").mkdir()
        shutil.copy(root / CONFIG, folder / CONFIG)
        make_demo(folder / "work/demo")
        env = os.environ | {
            "HOME": name,
            "XDG_STATE_HOME": f"{name}/state",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "LC_ALL": "C.UTF-8",
        }
        # What is asked once for each Axolotl is no part of the picture.
        train = [Path(sys.executable).with_name("leviathan"), "train", CONFIG, "--dry-run"]
        subprocess.run(train, cwd=folder, env=env, check=True, stdout=subprocess.DEVNULL)
        terminal = Terminal(folder, env)
        try:
            terminal.wait(r"^\$")
            terminal.press("C-l")
            terminal.type(f"leviathan train {CONFIG}")
            terminal.wait("^Step 25: loss")
            terminal.press("C-c")
            terminal.wait(r"^Resume with:.*\n\$ *$")
            terminal.type(f"leviathan train {CONFIG}")
            terminal.wait(r"\(yes/no/delete\): *$")
            terminal.type("yes")
            terminal.wait("Resume at step")
            terminal.wait("^Step 4[05]: loss")
            shown = terminal.screen(colours=True)
            terminal.press("C-c")
            terminal.wait("^Resume with:", times=2)
        finally:
            terminal.close()
    return shown.rstrip() + "\n"


def draw(shown: str) -> str:
    """What a terminal showed, as SVG."""
    text = Text.from_ansi(shown)
    console = Console(
        record=True,
        width=WIDTH,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
        legacy_windows=False,
    )
    console.print(text, soft_wrap=True)
    return with_fonts(console.export_svg(title=f"leviathan train {CONFIG}"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", action="store_true", help="train, pause and resume first")
    parser.add_argument("--out", type=Path, default=DOCS / "session.svg")
    options = parser.parse_args()
    if options.record:
        RECORD.write_text(record(), encoding="utf-8")
    options.out.write_text(draw(RECORD.read_text(encoding="utf-8")), encoding="utf-8")
    print(options.out)


if __name__ == "__main__":
    main()
