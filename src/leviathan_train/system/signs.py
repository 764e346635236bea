"""The signs in front of lines, each with an ASCII form for terminals that cannot show it.

Whoever prints writes the sign itself, as the trainer does into its log. `adapt` makes a stream
of the command line write the ASCII form where the encoding, or the terminal, lacks the sign.
"""

from __future__ import annotations

import codecs
import io
import os

OK = "✅"
WARNING = "⚠️ "  # with a space: terminals give it one cell less than the other signs
FAULT = "❌"
RESUME = "🔄"
BAR, BAR_REST = "━", "─"
ELLIPSIS = "…"

ASCII = {
    OK: "[ok]",
    "⚠": "[!]",
    "\N{VARIATION SELECTOR-16}": "",
    FAULT: "[x]",
    RESUME: "[>]",
    BAR: "#",
    BAR_REST: "-",
    ELLIPSIS: "...",
}
"""What stands for each character where it cannot be shown."""


def adapt(stream: object) -> None:
    """Make a text stream write the ASCII forms if it cannot show the signs.

    The Linux console reads UTF-8, but its font has no signs: there other characters pass.
    """
    if not isinstance(stream, io.TextIOWrapper):
        return
    if os.environ.get("TERM") == "linux" and stream.isatty():
        stream.reconfigure(encoding="ascii", errors="leviathan-signs-console")
    else:
        stream.reconfigure(errors="leviathan-signs")


def plain(text: str) -> str:
    """`text` in ASCII, with each sign in its own form."""
    return text.encode("ascii", "leviathan-signs").decode("ascii")


def _replaced(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    missing = error.object[error.start : error.end]
    return "".join(ASCII.get(char, "?") for char in missing), error.end


def _replaced_on_console(error: UnicodeError) -> tuple[bytes, int]:
    assert isinstance(error, UnicodeEncodeError)
    missing = error.object[error.start : error.end]
    text = "".join(ASCII.get(char, char) for char in missing)
    return text.encode("utf-8", "replace"), error.end


codecs.register_error("leviathan-signs", _replaced)
codecs.register_error("leviathan-signs-console", _replaced_on_console)
