"""The figure as a picture, PNG or SVG, drawn by matplotlib."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from leviathan_train.errors import UsageError
from leviathan_train.run.records import SeamWord
from leviathan_train.ui.plot.data import PANELS, Figure, Point

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a6d3b")
_FAINT = "#888888"
_MOST = 6000
"""Points of a curve: the picture is some 1,700 pixels wide."""
_LABELS = 12
"""Resumes that are labelled; of more, the labels would lie over one another."""


def check_drawable() -> None:
    """See that matplotlib is installed, without importing it.

    Raises:
        UsageError: it is not.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError(
            "A PNG or SVG is drawn by matplotlib, which is not installed.",
            "Install it with:  pip install 'leviathan-train[plot]'    or write a page, which needs"
            " nothing:  --output FILE.html",
        )


def write(figures: Sequence[Figure], path: Path) -> None:
    """Draw the runs into `path`, whose ending says as what.

    Raises:
        OSError: it could not be written.
    """
    from matplotlib.figure import Figure as Canvas

    shown = {
        title: names
        for title, names in PANELS.items()
        if any(figure.curves[name].points for figure in figures for name in names)
    }
    heights = [2.0, 1.0, 1.0][: len(shown)]
    canvas = Canvas(figsize=(12, 2.4 * sum(heights)), layout="constrained")
    rows = canvas.subplots(
        len(shown), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    for (title, names), (axes,) in zip(shown.items(), rows, strict=True):
        _panel(axes, title, names, figures)
    rows[-1][0].set_xlabel("Step")
    top = rows[0][0]
    _marks(top, figures)
    told = ", ".join(figure.name for figure in figures)
    # A name may hold a $, which would begin a formula.
    top.set_title(told, loc="left", parse_math=False)
    for text in top.legend(loc="upper right", fontsize="small", framealpha=0.8).get_texts():
        text.set_parse_math(False)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        canvas.savefig(temporary, format=path.suffix[1:], dpi=140)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _panel(axes: Any, title: str, names: Sequence[str], figures: Sequence[Figure]) -> None:
    axes.set_ylabel(title)
    axes.grid(alpha=0.3)
    for number, figure in enumerate(figures):
        for name in names:
            curve = figure.curves[name].thinned(_MOST)
            evaluated = name == "eval_loss"
            one = number if len(figures) > 1 else int(evaluated)
            style = {
                "color": _COLOURS[one % len(_COLOURS)],
                "linewidth": 2 if evaluated else 1,
                "marker": "." if evaluated or len(curve.points) < 60 else "",
            }
            label = name.replace("_", " ")
            if len(figures) > 1:
                label = f" {figure.name}: {label}"  # one that begins with _ would be left out
            if curve.points:
                _line(axes, curve.points, label=label, **style)
            for branch in curve.superseded:
                _line(axes, branch, alpha=0.35, **style)
            if curve.superseded and names == PANELS["Loss"] and not evaluated:
                axes.plot([], [], label=f"{label}, superseded", alpha=0.35, **style)


def _line(axes: Any, points: Sequence[Point], **style: Any) -> None:
    axes.plot([step for step, _ in points], [value for _, value in points], **style)


def _marks(axes: Any, figures: Sequence[Figure]) -> None:
    """Resumes and checkpoints, in the first panel."""
    floor = axes.get_xaxis_transform()
    for number, figure in enumerate(figures):
        ink = _COLOURS[number % len(_COLOURS)] if len(figures) > 1 else _FAINT
        resumes = [mark for mark in figure.sessions if mark.resumed]
        for mark in resumes:
            axes.axvline(mark.first_step, color=ink, linestyle=":", linewidth=1)
            if number == 0 and len(resumes) <= _LABELS:
                broken = ": broken" if mark.verdict == SeamWord.BROKEN else ""
                told = f"resume {mark.first_step}{broken}"
                axes.text(mark.first_step, 1.01, told, transform=floor, fontsize=7, rotation=30)
        _ticks(axes, figure, ink, labelled=number == 0)


def _ticks(axes: Any, figure: Figure, ink: str, *, labelled: bool) -> None:
    """The checkpoints of a run along the axis; one that is damaged is hollow, the best starred."""
    found = figure.checkpoints
    kinds = {
        "checkpoint": ([one.step for one in found if one.state != "damaged"], "^", ink, 0.015),
        "damaged": ([one.step for one in found if one.state == "damaged"], "^", "none", 0.015),
        "best": ([one.step for one in found if one.best], "*", ink, 0.06),
    }
    for label, (steps, marker, face, height) in kinds.items():
        if steps:
            axes.plot(
                steps,
                [height] * len(steps),
                marker,
                color=ink,
                markerfacecolor=face,
                markersize=10 if marker == "*" else 6,
                transform=axes.get_xaxis_transform(),
                label=label if labelled else None,
            )
