"""Axolotl's own validation, asked in a process of its own."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from typing import Any

from support.judged import BASE

DOTTED = "axolotl.integrations.spectrum.SpectrumPlugin"
COLON = "axolotl.integrations.spectrum:SpectrumPlugin"


def errors_of(env: dict[str, str], **values: Any) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-m", "leviathan_train.jobs.validate", "-"],
        input=json.dumps({"config": BASE | values}),
        capture_output=True,
        text=True,
        env=env,
        check=True,
    )
    errors: list[str] = json.loads(done.stdout)["errors"]
    return errors


def test_both_spellings_of_a_plugin_are_taken_where_axolotl_takes_both(env: dict[str, str]) -> None:
    takes_both = not importlib.metadata.version("axolotl").startswith("0.19.")
    assert errors_of(env, plugins=[DOTTED]) == []
    assert (errors_of(env, plugins=[COLON]) == []) is takes_both


def test_a_plugin_that_cannot_be_loaded_is_an_error(env: dict[str, str]) -> None:
    (error,) = errors_of(env, plugins=["nowhere.Plugin"])
    assert "nowhere" in error
