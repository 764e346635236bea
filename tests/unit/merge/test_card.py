"""The model card: what the hub reads of it, and what people read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from leviathan_train.merge import card

RECORD: dict[str, Any] = {
    "run": "r",
    "path": "models/r-merged",
    "base": {"name": "org/base"},
    "adapter": {"name": "checkpoint-7"},
    "step": 7,
    "epoch": 0.5,
    "loss": 1.23456,
    "eval_loss": None,
    "rounded_to_4bit": True,
    "proof": {"weights": {"tensors": 21, "adapted": 14}},
    "time": 0.0,
}
SETTINGS: dict[str, Any] = {
    "adapter": "qlora",
    "learning_rate": 1e-4,
    "hub_token": "hf_" + "s" * 30,
    "datasets": [
        {"path": "org/data", "type": "alpaca"},
        {"path": "./mine.jsonl", "type": "alpaca", "shards": 10},
    ],
}


def render(folder: Path, **record: Any) -> str:
    return card.render(RECORD | record, SETTINGS, folder)


def test_the_hub_reads_base_data_and_licence(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: other\nlicense_name: own\n---\n# Base\n")
    text = render(tmp_path)
    data = ModelCard(text).data.to_dict()
    assert data["base_model"] == "org/base"
    assert data["base_model_relation"] == "finetune"
    assert data["datasets"] == ["org/data"]
    assert data["tags"] == ["axolotl", "qlora", "merged"]
    assert (data["license"], data["license_name"]) == ("other", "own")
    assert data["library_name"] == "transformers"


def test_people_read_what_was_trained_and_how_it_was_merged(tmp_path: Path) -> None:
    text = render(tmp_path)
    for told in (
        "# r-merged",
        "| Loss | 1.235 |",
        "| learning_rate | 0.0001 |",
        "- `org/data`, as alpaca",
        "- `mine.jsonl`, as alpaca, 1 of 10 shards",
        "trained in 4 bits (NF4)",
        "14 of 21 tensors were changed by the adapter",
    ):
        assert told in text
    assert "ssss" not in text


@pytest.mark.parametrize("content", ["", "no metadata", "---\n[\n---\n", "---\n- a\n---\n"])
def test_a_base_with_any_card_or_none_is_merged(tmp_path: Path, content: str) -> None:
    if content:
        (tmp_path / "README.md").write_text(content)
    text = render(tmp_path, base={"name": "./local/base"}, proof={})
    data = ModelCard(text).data.to_dict()
    assert "license" not in data
    assert "base_model" not in data
    assert "`base` with checkpoint-7 of the run" in text
