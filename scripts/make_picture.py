#!/usr/bin/env python
"""Draw docs/status.svg, the picture of `leviathan status --watch` in the README.

It is drawn from docs/status.json, a real run at one moment, so that it can be made again
when the screen changes:

    python scripts/make_picture.py
    python scripts/make_picture.py --record demo_cpu    first record what that run does now
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from leviathan_train.checkpoints.store import Checkpoint, Facts
from leviathan_train.launch.activity import Activity
from leviathan_train.run import lookup, records
from leviathan_train.run.folder import Run
from leviathan_train.run.records import Begin, End, Launch, Request, Status
from leviathan_train.run.session import Session
from leviathan_train.system.gpu import Gpu
from leviathan_train.ui.dashboard.draw import Page
from leviathan_train.ui.dashboard.snapshot import Camera, Snapshot

DOCS = Path(__file__).resolve().parent.parent / "docs"
FONTS = "'DejaVu Sans Mono', Menlo, Consolas, monospace"
"""Fonts that hold braille; a README may load none from elsewhere."""


RECORDS = {"launch": Launch, "begin": Begin, "status": Status, "asked": Request, "end": End}


def read(value: dict[str, Any]) -> Snapshot:
    """The snapshot that was written as JSON."""
    told = value["activity"]
    told |= {name: records.from_json(kind, told[name]) for name, kind in RECORDS.items()}
    told["run"] = Run(Path(told["run"]["path"]))
    told["session"] = Session(Path(told["session"]["path"]))
    newest = told["checkpoint"]
    newest |= {"path": Path(newest["path"]), "facts": Facts.from_json(newest["facts"])}
    told["checkpoint"] = Checkpoint(**newest)
    value["activity"] = Activity(**told)
    for name in ("losses", "eval_losses", "learning_rates", "lines"):
        value[name] = tuple(tuple(x) if isinstance(x, list) else x for x in value[name])
    value["gpus"] = tuple(Gpu(**gpu) for gpu in value["gpus"])
    return Snapshot(**value)


def draw(now: Snapshot, width: int, height: int) -> str:
    """The page as SVG, in the colours of a dark terminal."""
    console = Console(
        record=True,
        width=width,
        height=height,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
        legacy_windows=False,
    )
    for line in Page(now).lines(width, height):
        console.print(line, end="\n")
    console.print()  # the window's edge would cut the last line's descenders
    return with_fonts(console.export_svg(title=f"leviathan status {now.target} --watch"))


def with_fonts(svg: str) -> str:
    """A picture of rich's without the fonts that it would load from elsewhere."""
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    return svg.replace("Fira Code, monospace", FONTS).replace("arial", FONTS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", metavar="RUN", help="look at this run first")
    parser.add_argument("--width", type=int, default=100)
    parser.add_argument("--height", type=int, default=30)
    parser.add_argument("--out", type=Path, default=DOCS / "status.svg")
    options = parser.parse_args()
    record = DOCS / "status.json"
    if options.record:
        now = asdict(Camera(lookup.find(options.record)).look())
        record.write_text(json.dumps(now, default=str) + "\n", encoding="utf-8")
    os.environ["TZ"] = "UTC"  # the same picture wherever it is made
    time.tzset()
    now = read(json.loads(record.read_text(encoding="utf-8")))
    options.out.write_text(draw(now, options.width, options.height), encoding="utf-8")
    print(options.out)


if __name__ == "__main__":
    main()
