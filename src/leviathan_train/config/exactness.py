"""Settings with which a run that was paused does not end as one that never was, and why.

What is not here was seen to be exact, or was not tried; tests/real/test_kinds.py tries them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from leviathan_train.config.load import Config
from leviathan_train.config.requirements import is_on

# torch loads a checkpoint's optimizer without code of others (transformers,
# `_load_optimizer_and_scheduler`, weights_only=True). Seen on axolotl 0.19.
_REFUSED = "its saved state holds objects that torch refuses to load, so every resume fails"
_OPTIMIZERS: Mapping[str, str] = {
    r"(q_)?galore_.*": _REFUSED,
    r"apollo_.*": _REFUSED,
    "grokadamw": "it keeps its moments where a checkpoint cannot restore them, so they start anew",
}


def inexact(config: Config) -> Iterator[tuple[str, str]]:
    """Each such setting, as `key: value: reason`, and what to do about it."""
    values = config.values
    if why := inexact_optimizer(config):
        yield why, "Choose another optimizer if the run may be paused, for example adamw_torch."
    if is_on(values.get("relora")):
        # axolotl 0.19, monkeypatch/relora.py, `load_weight_checkpoint`
        yield (
            "relora: true: Axolotl fails to load a checkpoint of its own that was made after the"
            " first restart, so every resume fails",
            "Train it without a pause.",
        )
    streamed = values.get("pretraining_dataset") or is_on(values.get("streaming"))
    if streamed and is_on(values.get("sample_packing")):
        # axolotl 0.19, utils/data/streaming.py, `encode_packed_streaming`: drawn as they come
        yield (
            "sample_packing: true: rows that are streamed are packed in another order at a resume",
            "Without sample_packing they are the same.",
        )


def inexact_optimizer(config: Config) -> str:
    """Why the optimizer's state does not survive a resume; empty if it does."""
    name = str(config.values.get("optimizer") or "")
    for pattern, why in _OPTIMIZERS.items():
        if re.fullmatch(pattern, name):
            return f"optimizer: {name}: {why}"
    return ""
