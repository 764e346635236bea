"""What a merge decides before it starts: rounding, number format, and what may be replaced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from leviathan_train.errors import UsageError
from leviathan_train.merge.output import check_goal
from leviathan_train.merge.plan import trained_in_nf4, training_dtype

QLORA: dict[str, Any] = {"adapter": "qlora", "load_in_4bit": True}


@pytest.mark.parametrize(
    ("settings", "rounded"),
    [
        (QLORA, True),
        (QLORA | {"nf4_backend": "bitsandbytes"}, True),
        (QLORA | {"bnb_config_kwargs": {"bnb_4bit_use_double_quant": False}}, True),
        ({"adapter": "lora", "load_in_4bit": True}, False),
        ({"adapter": "lora", "load_in_8bit": True}, False),
        ({"adapter": "qlora"}, False),
    ],
)
def test_only_qlora_rounds_the_base(settings: dict[str, Any], rounded: bool) -> None:
    assert trained_in_nf4(settings) is rounded


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"nf4_backend": "torchao"}, "torchao (nf4_backend)"),
        ({"staged_nf4": True}, "staged_nf4"),
        ({"qlora_sharded_model_loading": True}, "qlora_sharded_model_loading"),
        ({"bnb_config_kwargs": {"bnb_4bit_quant_type": "fp4"}}, "in fp4"),
    ],
)
def test_another_rounding_is_refused_naming_what_to_use(other: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError) as refused:
        trained_in_nf4(QLORA | other)
    assert named in refused.value.message
    assert refused.value.hint
    assert "axolotl.cli.merge_lora" in refused.value.hint
    assert "--precision full" in refused.value.hint


@pytest.mark.parametrize(
    ("settings", "dtype"),
    [
        ({}, "auto"),
        ({"bf16": "auto"}, "auto"),
        ({"bf16": True}, "bfloat16"),
        ({"bfloat16": True}, "bfloat16"),
        ({"fp16": True}, "float16"),
        ({"bf16": "auto", "fp16": True}, "float16"),
        ({"bf16": False}, "float32"),
    ],
)
def test_the_number_format_is_the_trainings(settings: dict[str, Any], dtype: str) -> None:
    assert training_dtype(settings) == dtype


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def test_a_merged_model_is_replaced_only_when_asked(model: Path) -> None:
    check_goal(model, set(), replace=True)
    with pytest.raises(UsageError, match="exists already"):
        check_goal(model, set(), replace=False)


def test_nothing_else_is_ever_replaced(model: Path, tmp_path: Path) -> None:
    inside, link, file = model / "adapter", tmp_path / "link", tmp_path / "file"
    inside.mkdir()
    link.symlink_to(model)
    file.write_text("")
    for precious in ({model}, {inside}):
        with pytest.raises(UsageError, match="is not a merged model"):
            check_goal(model, precious, replace=True)
    for goal in (link, file):
        with pytest.raises(UsageError, match="is not a folder"):
            check_goal(goal, set(), replace=True)
    with pytest.raises(UsageError, match="is not a merged model"):
        check_goal(tmp_path, set(), replace=True)


def test_an_empty_or_missing_folder_may_be_written(tmp_path: Path) -> None:
    check_goal(tmp_path / "new", set(), replace=False)
    (tmp_path / "empty").mkdir()
    check_goal(tmp_path / "empty", set(), replace=False)
