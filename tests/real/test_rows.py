"""What is said of a data set's rows is what Axolotl's own prompt strategies want."""

from __future__ import annotations

from typing import Any

import pytest

from leviathan_train.config.row_types import _COLUMNS, _FITTING, _LISTS, wanted
from support.demo import Demo

pytestmark = [pytest.mark.train, pytest.mark.axolotl]

CFG = {"sequence_len": 256, "train_on_inputs": False}


@pytest.fixture(scope="module")
def tokenizer(demo: Demo) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(demo.model)


def tokenise(kind: str, tokenizer: Any, row: dict[str, Any]) -> Any:
    """What Axolotl makes of a row."""
    from axolotl.prompt_strategies import load
    from axolotl.utils.data import wrappers
    from axolotl.utils.dict import DictDefault
    from datasets import Dataset

    cfg = DictDefault(CFG)
    strategy = load(kind, tokenizer, cfg, DictDefault({"type": kind}))
    if strategy is not None:
        return strategy.tokenize_prompt(row)
    handler = wrappers.DATASET_HANDLERS[kind.partition(":")[0]]
    kwargs = {"process_count": 1, "keep_in_memory": True}
    made, _ = handler(None, tokenizer, cfg, Dataset.from_list([row]), kwargs)
    return made[0]


@pytest.mark.parametrize("kind", sorted([*_COLUMNS, "reflection"]))
def test_a_type_wants_these_columns_and_no_others(kind: str, tokenizer: Any) -> None:
    columns = _COLUMNS.get(kind) or _LISTS[kind]
    row = {column: f"some {column}" for column in columns}
    assert tokenise(kind, tokenizer, row)["input_ids"]
    for column in columns:
        lacking = {name: value for name, value in row.items() if name != column}
        with pytest.raises(KeyError, match=column):
            tokenise(kind, tokenizer, lacking)


@pytest.mark.parametrize("kind", sorted(_COLUMNS))
def test_an_answer_that_is_no_text_is_refused(kind: str, tokenizer: Any) -> None:
    want = wanted({"type": kind}, {})
    assert want and want.answer
    row: dict[str, Any] = dict.fromkeys(want.columns, "x") | {want.answer: 3}
    with pytest.raises((TypeError, ValueError)):
        tokenise(kind, tokenizer, row)


def test_what_is_offered_is_known() -> None:
    assert set(_FITTING) <= set(_COLUMNS)
