"""Options keep their meaning beside a YAML that says true or false."""

from __future__ import annotations

from typing import Any

import pytest

from leviathan_train.trainer.overrides import restore_strings


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("--resume_from_checkpoint=run/checkpoint-6", "run/checkpoint-6"),
        ("--resume_from_checkpoint='a b/checkpoint-6'", "a b/checkpoint-6"),
        ("--resume_from_checkpoint=None", False),
        ("--resume_from_checkpoint=False", False),
        ("--resume_from_checkpoint=no", False),
        ("--resume_from_checkpoint=0", False),
        ("--other=x", False),
        ("config.yaml", False),
    ],
)
def test_a_text_over_a_bool_stays_a_text(argument: str, expected: Any) -> None:
    cfg: dict[str, Any] = {"resume_from_checkpoint": False, "other": True}
    restore_strings(cfg, ["train.py", argument])
    assert cfg == {"resume_from_checkpoint": expected, "other": True}
