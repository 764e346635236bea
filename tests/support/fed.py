"""A plugin for tests: writes down the rows that each step really gets, as the model sees them.

Name it in `plugins`, put this folder's parent on PYTHONPATH, and name a file in FED_ROWS.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from axolotl.integrations.base import BasePlugin

PLUGIN = "support.fed.FedRows"


class FedRows(BasePlugin):  # type: ignore[misc]
    """Appends a line for each micro-batch: the step, the rank, and a digest of each row."""

    def post_trainer_create(self, cfg: Any, trainer: Any) -> None:
        original, rank = trainer.training_step, os.environ.get("RANK", "0")

        def step(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            rows = [
                hashlib.sha256(bytes(str([t for t in row if t]), "ascii")).hexdigest()[:12]
                for row in (inputs["input_ids"] * inputs["attention_mask"].bool()).tolist()
            ]
            line = json.dumps({"step": trainer.state.global_step + 1, "rank": rank, "rows": rows})
            with Path(f"{os.environ['FED_ROWS']}.{rank}").open("a") as stream:
                stream.write(line + "\n")
            return original(model, inputs, *args, **kwargs)

        trainer.training_step = step


def fed(file: Path) -> Mapping[int, list[str]]:
    """The rows of each step, of all ranks together, sorted."""
    found: dict[int, list[str]] = {}
    for part in sorted(file.parent.glob(f"{file.name}.*")):
        for line in part.read_text().splitlines():
            told = json.loads(line)
            found.setdefault(told["step"], []).extend(told["rows"])
    return {step: sorted(rows) for step, rows in found.items()}
