"""What a resume cannot restore is told; what it restores is not talked about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from leviathan_train.config.exactness import inexact, inexact_optimizer
from leviathan_train.config.load import Config


def told(**values: Any) -> list[str]:
    return [why for why, hint in inexact(Config(Path("c.yaml"), values)) if hint]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"optimizer": "galore_adamw_layerwise"}, "torch refuses to load"),
        ({"optimizer": "q_galore_adamw8bit"}, "torch refuses to load"),
        ({"optimizer": "apollo_adamw"}, "torch refuses to load"),
        ({"optimizer": "grokadamw"}, "they start anew"),
        ({"relora": True}, "every resume fails"),
        ({"pretraining_dataset": [{"path": "x"}], "sample_packing": True}, "in another order"),
        ({"streaming": "true", "sample_packing": "yes"}, "in another order"),
    ],
    ids=str,
)
def test_what_a_resume_cannot_restore_is_told(values: dict[str, Any], text: str) -> None:
    (line,) = told(**values)
    assert text in line and line.startswith(tuple(f"{key}: " for key in values))


def test_nothing_else_is() -> None:
    assert told(optimizer="adamw_torch", relora=False, sample_packing=True) == []
    assert told(streaming=True, pretraining_dataset=None, optimizer=None) == []
    assert inexact_optimizer(Config(Path("c.yaml"), {"optimizer": "adafactor"})) == ""
