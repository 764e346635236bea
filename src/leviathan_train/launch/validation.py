"""Axolotl's own validation of a config, asked for in a child process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from leviathan_train.config.load import Config

TIMEOUT = 300.0
"""Seconds."""


@dataclass(frozen=True)
class Validation:
    """What Axolotl said of a config, a line each."""

    errors: Sequence[str] = ()
    warnings: Sequence[str] = ()


def validate(config: Config, *, python: str = sys.executable) -> Validation:
    """Have Axolotl validate the config as the trainer would see it.

    Takes the seconds of Axolotl's import. A validation that fails itself is an error of the
    config, with the last line of its output.
    """
    values = {**config.values, "plugins": config.plugins}
    try:
        done = subprocess.run(
            [python, "-m", "leviathan_train.jobs.validate", "-"],
            input=json.dumps({"config": values}, default=str),
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            env=os.environ | {"AXOLOTL_DO_NOT_TRACK": os.environ.get("AXOLOTL_DO_NOT_TRACK", "1")},
        )
    except subprocess.TimeoutExpired:
        return Validation([f"Axolotl's validation did not end within {TIMEOUT:.0f} s"])
    try:
        answer = json.loads(done.stdout)
        return Validation(answer["errors"], answer["warnings"])
    except (ValueError, KeyError, TypeError):
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        return Validation([f"Axolotl's validation failed (exit {done.returncode}): {last}"])
