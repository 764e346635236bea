"""Settings with which a run that was paused does not end as one that never was, and why.

What is not here was seen to be exact, or was not tried; tests/real/test_kinds.py tries them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from leviathan_train.config.load import Config

# torch loads a checkpoint's optimizer without code of others (transformers,
# `_load_optimizer_and_scheduler`, weights_only=True). Seen on axolotl 0.19.
_REFUSED = "its saved state holds objects that torch refuses to load, so every resume fails"
_OPTIMIZERS: Mapping[str, str] = {
    r"(q_)?galore_.*": _REFUSED,
    r"apollo_.*": _REFUSED,
    "grokadamw": "it keeps its moments where a checkpoint cannot restore them, so they start anew",
}


def inexact_optimizer(config: Config) -> str:
    """Why the optimizer's state does not survive a resume; empty if it does."""
    name = str(config.values.get("optimizer") or "")
    for pattern, why in _OPTIMIZERS.items():
        if re.fullmatch(pattern, name):
            return f"optimizer: {name}: {why}"
    return ""
