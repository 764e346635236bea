"""A log as it is shown: byte for byte where it is piped, harmless on a terminal."""

from __future__ import annotations

import codecs
import os
import re
import sys
from collections.abc import Iterable

from leviathan_train.ui.text import plain

_COLOUR = re.compile(r"(\x1b\[[0-9;]*m)")
_OPEN_ESCAPE = re.compile(r"\x1b(\[[0-9;]*)?$")


def show(pieces: Iterable[bytes]) -> None:
    """Write a log to stdout, each piece at once.

    Into a pipe or a file it goes as it is. On a terminal colours and line breaks are obeyed and
    every other control character is shown as an escape: a log quotes what it was given, a name
    or a row of data, and those must not move the cursor or retitle the window.
    """
    if not sys.stdout.isatty():
        for piece in pieces:
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
        return
    harmless = Harmless(colour=not os.environ.get("NO_COLOR"))
    try:
        for piece in pieces:
            print(harmless.text(piece), end="", flush=True)
    finally:  # Ctrl+C, too, must not leave the prompt in the log's colour
        print(harmless.text(b"", final=True) + harmless.reset, end="", flush=True)


class Harmless:
    """Turns the bytes of a log into text for a terminal, piece by piece.

    Args:
        colour: let the colours of the log pass; else they are taken out.
    """

    def __init__(self, *, colour: bool) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._colour = colour
        self._held = ""
        self.reset = "\x1b[0m" if colour else ""

    def text(self, piece: bytes, *, final: bool = False) -> str:
        """What to print for a piece; an escape sequence that is cut off waits for its rest."""
        text = self._held + self._decoder.decode(piece, final)
        self._held = ""
        cut = None if final else _OPEN_ESCAPE.search(text)
        if cut or (text.endswith("\r") and not final):
            at = cut.start() if cut else len(text) - 1
            text, self._held = text[:at], text[at:]
        # A progress bar draws over its line; its states are shown one below the other.
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        parts = _COLOUR.split(text)  # at the odd places, colours
        parts[1::2] = parts[1::2] if self._colour else [""] * len(parts[1::2])
        parts[::2] = [_without_controls(part) for part in parts[::2]]
        return "".join(parts)


def _without_controls(text: str) -> str:
    return "".join(char if char in "\n\t" or char.isprintable() else plain(char) for char in text)
