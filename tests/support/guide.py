"""The commands of docs/guide.md, as a reader would copy them."""

from __future__ import annotations

import re

from support.demo import ROOT

PAGE = ROOT / "docs" / "guide.md"


def commands() -> list[str]:
    """Every command of the page's `bash` blocks, in its order, without its comment."""
    blocks = re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    lines = [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]
