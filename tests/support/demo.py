"""What the tests that really train share: the names of a tiny model and its rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = "leviathan_train.plugin.LeviathanPlugin"
ROWS = 160

MakeConfig = Callable[..., Path]


@dataclass(frozen=True)
class Demo:
    """A tiny Llama with its tokenizer, its rows, and where Axolotl keeps them tokenised."""

    model: Path
    data: Path
    prepared: Path
