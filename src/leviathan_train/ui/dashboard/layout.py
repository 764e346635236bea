"""Lines of the live screen put together from parts that fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from leviathan_train.system import signs

if TYPE_CHECKING:
    from rich.text import Text

# No dim, no yellow, no white: each of these can be read on black and on white.
VALUE, CURVE, EVAL = "bold", "cyan", "magenta"
GOOD, NOTE, BAD = "green", "magenta", "red"

Part = str | tuple[str, str]
"""Text, or text and its style."""
Parts = Sequence[Part]


def text(*parts: Part | Text) -> Text:
    """One line."""
    from rich.text import Text

    return Text.assemble(*parts, no_wrap=True, end="")


def fitted(width: int, first: Parts, *more: Parts) -> Text:
    """A line of `first` and as many of `more` as fit whole."""
    line = text(*first)
    for parts in more:
        longer = text(line, *parts)
        if longer.cell_len > width:
            break
        line = longer
    return line


def justified(left: Text, right: Text, width: int) -> Text:
    """Two texts at both ends of a line; the right one is left out where there is no room."""
    gap = width - left.cell_len - right.cell_len
    return text(left, " " * gap, right) if gap >= 2 else left


def beside(left: Sequence[Text], right: Sequence[Text], width: int) -> list[Text]:
    """Two columns, the left one `width` cells wide."""
    lines = []
    for index in range(max(len(left), len(right))):
        line = left[index].copy() if index < len(left) else text()
        line.truncate(width, overflow="ellipsis", pad=True)
        lines.append(text(line, "   ", right[index]) if index < len(right) else line)
    return lines


def bar(share: float, cells: int, style: str, *, plain: bool) -> list[Part]:
    """A bar of `cells` cells that is full at a share of 1."""
    done = min(cells, int(share * cells))
    full, rest = signs.BAR * done, signs.BAR_REST * (cells - done)
    return [(signs.plain(full), style), signs.plain(rest)] if plain else [(full, style), rest]
