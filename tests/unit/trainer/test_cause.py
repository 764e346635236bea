"""The cause of a crash in one line: the words that count, with the file or the key."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from leviathan_train.errors import LeviathanError
from leviathan_train.run.records import Phase
from leviathan_train.trainer.cause import told

CFG = {"base_model": "./base", "datasets": [{"path": "data.jsonl"}]}


class DatasetGenerationError(Exception):
    """As datasets wraps what a reader raised."""


def wrapped() -> BaseException:
    try:
        try:
            raise ValueError("JSON parse error:\n  in row 3")
        except ValueError as inner:
            raise DatasetGenerationError("An error occurred") from inner
    except DatasetGenerationError as error:
        return error


@pytest.mark.parametrize(
    ("error", "phase", "line"),
    [
        (KeyError("instruction"), Phase.DATA, "in datasets (data.jsonl): no column or key 'inst"),
        (KeyError("a b"), Phase.DATA, "in datasets (data.jsonl): no column or key 'a b'"),
        (KeyError("The metric is not found."), Phase.EVALUATING, "The metric is not found."),
        (
            ValueError("num_samples should be a positive integer value, but got num_samples=0"),
            Phase.MODEL,
            "in datasets (data.jsonl): no row is left to train on: those longer than sequence_len",
        ),
        (StopIteration(), Phase.DATA, "in datasets (data.jsonl): no row was left"),
        (wrapped(), Phase.DATA, "in datasets (data.jsonl): JSON parse error: in row 3"),
        (OSError("no file named x"), Phase.MODEL, "loading base_model ./base: no file named x"),
        (RuntimeError("CUDA out of memory. Tried"), Phase.TRAINING, "CUDA out of memory. Tried"),
        (ZeroDivisionError(), Phase.TRAINING, "ZeroDivisionError:"),
        (LeviathanError("known"), Phase.DATA, "known"),
    ],
)
def test_a_cause_is_told_without_the_name_of_its_class(
    error: BaseException, phase: Phase, line: str
) -> None:
    text = told(error, phase, CFG)
    assert text.startswith(line)
    assert "\n" not in text


def test_an_entry_that_axolotl_has_validated_is_named_too() -> None:
    class Entry(BaseModel):
        path: str

    cfg = {"datasets": [Entry(path="rows.jsonl")]}
    assert told(KeyError("a"), Phase.DATA, cfg) == "in datasets (rows.jsonl): no column or key 'a'"


def test_what_pydantic_refuses_is_told_by_key() -> None:
    class Settings(BaseModel):
        lora_r: int

    with pytest.raises(ValueError) as raised:
        Settings.model_validate({"lora_r": "many"})
    assert told(raised.value, Phase.STARTING, CFG).startswith("lora_r: Input should be a valid")
