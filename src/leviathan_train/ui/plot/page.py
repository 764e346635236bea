"""The figure as one HTML file that needs nothing else: data, style and script are in it."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from leviathan_train.system.files import write_text
from leviathan_train.system.units import clock
from leviathan_train.ui.plot.data import PANELS, Curve, Figure, Point

MOST = 100_000
"""Points of a curve that a page holds: a browser opens it within a second or two."""


def page(figures: Sequence[Figure], *, at: float) -> str:
    """The page of some runs, in one figure.

    Args:
        at: when it is drawn, seconds since the epoch.
    """
    folder = Path(__file__).parent
    drawn = {
        figure.path: {
            name: curve.thinned(MOST)
            for name, curve in figure.curves.items()
            if curve.points or curve.superseded
        }
        for figure in figures
    }
    data = {
        "panels": PANELS,
        "runs": [_run(figure, drawn[figure.path]) for figure in figures],
        "notes": [
            "Drag to zoom, double-click to see all. Where many points share a pixel column, the"
            " smallest and the largest of them are drawn.",
            *(line for figure in figures for line in _thinned(figure, drawn[figure.path])),
            *(line for figure in figures for line in figure.gaps()),
            f"Drawn {clock(at)} by leviathan plot.",
        ],
    }
    # In a script element only `</` and `<!--` would end or change what is data.
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    parts = {
        "TITLE": html.escape(", ".join(figure.name for figure in figures)),
        "SCRIPT": (folder / "page.js").read_text(encoding="utf-8"),
        "DATA": text,
    }
    whole = (folder / "page.html").read_text(encoding="utf-8")
    # In one pass: what is filled in may itself look like a place to fill in.
    return re.sub("@([A-Z]+)@", lambda place: parts[place[1]], whole)


def write(figures: Sequence[Figure], path: Path, *, at: float) -> None:
    """Write the page of some runs; see `page`."""
    write_text(path, page(figures, at=at))


def _thinned(figure: Figure, curves: dict[str, Curve]) -> list[str]:
    return [
        f"{figure.name}: of each {curve.each} logged values of {name}, the smallest and the largest"
        " are in this file."
        for name, curve in curves.items()
        if curve.each > 1
    ]


def _run(figure: Figure, curves: dict[str, Curve]) -> dict[str, Any]:
    return {
        "name": figure.name,
        "curves": {
            name: {
                "points": _columns(curve.points),
                "superseded": [_columns(branch) for branch in curve.superseded],
            }
            for name, curve in curves.items()
        },
        "sessions": [
            {"first_step": one.first_step, "resumed": one.resumed, "verdict": one.verdict}
            for one in figure.sessions
        ],
        "checkpoints": [asdict(saved) for saved in figure.checkpoints],
    }


def _columns(points: Sequence[Point]) -> dict[str, list[float]]:
    """Steps as differences and values in six digits: half the size of a list of pairs."""
    steps = [step for step, _ in points]
    before = [0, *steps[:-1]]
    return {
        "s": [step - last for step, last in zip(steps, before, strict=True)],
        "v": [float(f"{value:.6g}") for _, value in points],
    }
