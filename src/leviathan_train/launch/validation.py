"""Axolotl's own validation of a config, asked for in a child process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from leviathan_train.config.load import Config
from leviathan_train.config.survey import Survey

TIMEOUT = 300.0
"""Seconds."""
AMPERE: Mapping[str, Any] = {
    "compute_capability": "sm_86",
    "bf16": True,
    "tf32": True,
    "fp8": False,
    "n_gpu": 1,
    "n_node": 1,
}
"""What a GPU of that generation, such as an RTX A4000, can do."""


@dataclass(frozen=True)
class Validation:
    """What Axolotl said of a config, a line each.

    Attributes:
        survey: what was seen of the rows; None if that was not possible.
    """

    errors: Sequence[str] = ()
    warnings: Sequence[str] = ()
    survey: Survey | None = None


def validate(
    config: Config, capabilities: Mapping[str, Any] | None = None, *, python: str = sys.executable
) -> Validation:
    """Have Axolotl validate the config as the trainer would see it, and look at the rows.

    Takes the seconds of Axolotl's import. A validation that fails itself is an error of the
    config, with the last line of its output.

    Args:
        capabilities: of the GPU to judge for, e.g. `AMPERE`; by default this machine's.
    """
    values = {**config.values, "plugins": config.plugins}
    asked = {"config": values, "rows_of": str(config.path), "capabilities": capabilities}
    try:
        done = subprocess.run(
            [python, "-m", "leviathan_train.jobs.validate", "-"],
            input=json.dumps(asked, default=str),
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            env=os.environ | {"AXOLOTL_DO_NOT_TRACK": os.environ.get("AXOLOTL_DO_NOT_TRACK", "1")},
        )
    except subprocess.TimeoutExpired:
        return Validation([f"Axolotl's validation did not end within {TIMEOUT:.0f} s"])
    try:
        answer = json.loads(done.stdout)
        survey = Survey.from_json(answer["rows"]) if answer.get("rows") else None
        return Validation(answer["errors"], answer["warnings"], survey)
    except (ValueError, KeyError, TypeError):
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        return Validation([f"Axolotl's validation failed (exit {done.returncode}): {last}"])
