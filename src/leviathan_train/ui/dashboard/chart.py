"""Curves drawn in characters: a dot in a braille cell is a pixel, 2 by 4 in each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_BRAILLE = 0x2800
_DOTS = ((0x40, 0x04, 0x02, 0x01), (0x80, 0x20, 0x10, 0x08))
"""The bits of a braille cell by column, from the bottom up."""
_BLOCKS = "▁▂▃▄▅▆▇█"
_SETTLED = 0.05
_FEW = 20
_LEAST_BINS = 32
_FLAT = 0.25


@dataclass(frozen=True)
class Chart:
    """A drawn curve.

    Attributes:
        rows: from the top, all of one length.
        top, middle, bottom: the values at the heights of those rows.
        first, last: the steps at the left and the right edge.
    """

    rows: tuple[str, ...]
    top: float
    middle: float
    bottom: float
    first: int
    last: int


def chart(
    points: Sequence[tuple[int, float]],
    width: int,
    height: int,
    *,
    whole: bool = False,
    braille: bool = True,
) -> Chart | None:
    """Draw points over their steps in `width` by `height` characters; None without a point.

    Where points are many, neighbours become their mean, so that the course is seen and not
    the noise. A loss falls fast at first, and would leave no height for all that follows:
    with more than a few points the scale leaves the first twentieth out, and the curve
    enters from beyond it.

    Args:
        whole: scale to all points.
        braille: draw in braille, or else with asterisks.
    """
    if not points or width < 1 or height < 1:
        return None
    wide, high = (2, 4) if braille else (1, 1)
    columns = _columns(points, width * wide)
    settled = 0 if whole or len(points) < _FEW else round(len(columns) * _SETTLED)
    known = [value for value in columns[settled:] if value is not None]
    bottom, top = min(known), max(known)
    span, most = top - bottom, height * high - 1
    cells = [[0] * width for _ in range(height)]
    before: int | None = None
    for x, value in enumerate(columns):
        if value is None:
            continue
        y = round((value - bottom) / span * most) if span else most // 2
        if not 0 <= y <= most:
            before = min(max(y, 0), most)
            continue
        # The stroke from the last height to this one, so that the curve does not fall apart.
        start = y if before is None or before == y else before + (1 if y > before else -1)
        # Two dots thick, where dots are small.
        for dot in range(max(0, min(start, y) - (braille and y > 0)), max(start, y) + 1):
            bit = _DOTS[x % 2][dot % 4] if braille else 1
            cells[height - 1 - dot // high][x // wide] |= bit
        before = y
    rows = tuple("".join(_cell(cell, braille) for cell in row) for row in cells)
    return Chart(rows, top, bottom + span / 2, bottom, points[0][0], points[-1][0])


def recent(points: Sequence[tuple[int, float]]) -> Sequence[tuple[int, float]]:
    """The points since a curve has settled, but at least a quarter of them.

    A half whose course would take less than a quarter of the height is drawn alone.
    """
    least = max(len(points) // 4, _FEW)
    while len(points) // 2 >= least:
        half = points[len(points) // 2 :]
        if _span(half) >= _FLAT * _span(points[round(len(points) * _SETTLED) :]):
            break
        points = half
    return points


def _span(points: Sequence[tuple[int, float]]) -> float:
    """Between the highest and the lowest of a curve's means."""
    known = [value for value in _columns(points, _LEAST_BINS) if value is not None]
    return max(known) - min(known)


def _cell(bits: int, braille: bool) -> str:
    return " " if not bits else chr(_BRAILLE + bits) if braille else "*"


def _columns(points: Sequence[tuple[int, float]], count: int) -> list[float | None]:
    """The value at each of `count` columns: means of neighbouring points, joined by lines."""
    first, last = points[0][0], points[-1][0]
    bins = min(count, max(_LEAST_BINS, count // 4))
    sums, counts, places = [0.0] * bins, [0] * bins, [0] * bins
    for step, value in points:
        share = (step - first) / (last - first) if last > first else 0.0
        at = min(max(int(share * bins), 0), bins - 1)
        sums[at] += value
        counts[at] += 1
        places[at] += step - first
    columns: list[float | None] = [None] * count
    before: tuple[int, float] | None = None
    for total, number, place in zip(sums, counts, places, strict=True):
        if not number:
            continue
        value = total / number
        at = round(place / number / (last - first) * (count - 1)) if last > first else 0
        columns[at] = value
        for between in range(before[0] + 1, at) if before else ():
            assert before is not None
            share = (between - before[0]) / (at - before[0])
            columns[between] = before[1] + (value - before[1]) * share
        before = (at, value)
    return columns


def spark(values: Sequence[float], width: int) -> str:
    """The last `width` values as a row of blocks, scaled to their own range."""
    shown = values[-width:] if width > 0 else []
    if not shown:
        return ""
    low, span = min(shown), max(shown) - min(shown)
    most = len(_BLOCKS) - 1
    return "".join(
        _BLOCKS[round((value - low) / span * most) if span else most // 2] for value in shown
    )
