"""The judge of a survey of rows: what Axolotl's own strategies make of each.

It stands on `get_dataset_wrapper` and `load_tokenizer` as axolotl 0.19 to 0.21 have them; where
they are otherwise, the rows are counted and not judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leviathan_train.config.data import Source
from leviathan_train.config.load import Config, number
from leviathan_train.config.requirements import is_on
from leviathan_train.config.row_types import TOKENISED
from leviathan_train.config.survey import Judged, survey

SECONDS = 15.0
"""For reading all rows, and once more for judging some of them."""
_IGNORED = -100


def survey_rows(values: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Look at the rows of a config's local data files.

    Args:
        values: the config as written, overrides applied.
        path: of its file.

    Returns:
        `Survey.as_json`.
    """
    config = Config(Path(path), values)
    judge, unknown = None, _not_judged(values)
    if not unknown:
        try:
            judge = _Strategies(values)
        except Exception as error:  # the tokenizer is not here, or not of a kind that is known
            unknown = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return survey(config, judge, unknown=unknown, seconds=SECONDS).as_json()


def _not_judged(values: Mapping[str, Any]) -> str:
    """Why rows of this config are no rows of text with an answer; empty if they are."""
    if values.get("rl") or is_on(values.get("reward_model")):
        return f"rl: {values.get('rl') or 'reward_model'} takes rows in another form"
    if values.get("processor_type"):
        return "rows with images are not read"
    if is_on(values.get("skip_prepare_dataset")):
        return "skip_prepare_dataset: true leaves the rows as they are"
    return ""


class _Strategies:
    """Tokenises single rows as Axolotl does, each entry of the data in its own way."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        from axolotl.loaders.tokenizer import load_tokenizer
        from axolotl.utils.dict import DictDefault

        base = values.get("base_model_config") or values.get("base_model")
        known = {"tokenizer_config": values.get("tokenizer_config") or base}
        known["sequence_len"] = number(values, "sequence_len", 512)
        self.cfg = DictDefault({**values, **known})
        self.tokenizer = load_tokenizer(self.cfg)
        self.found: dict[str, Any] = {}

    def __call__(self, source: Source, values: Mapping[str, Any]) -> Judged:
        row = dict(values)
        if row.keys() >= TOKENISED:
            return _judged(row["input_ids"], row["labels"])
        strategy = self.found.get(source.key)
        if strategy is None:
            strategy = self.found[source.key] = self._strategy(source.entry, row)
        if strategy.supports_batched:
            made = strategy.tokenize_prompt({name: [value] for name, value in row.items()})
            # A long text of `completion` becomes several rows, each of which fits.
            longest = max(made["input_ids"], key=len, default=())
            return _judged(longest, [label for part in made["labels"] for label in part])
        made = strategy.tokenize_prompt(row)
        return _judged(made["input_ids"], made["labels"])

    def _strategy(self, entry: Mapping[str, Any], row: dict[str, Any]) -> Any:
        from axolotl.utils.data.wrappers import get_dataset_wrapper
        from axolotl.utils.dict import DictDefault
        from datasets import Dataset

        kind = entry.get("type")
        base, _, style = kind.partition(":") if isinstance(kind, str) else (None, "", "")
        wrapper, _ = get_dataset_wrapper(
            dataset_config=DictDefault(entry),
            tokenizer=self.tokenizer,
            cfg=self.cfg,
            dataset_base_type=base,
            dataset=Dataset.from_list([row]),
            dataset_prompt_style=style or None,
        )
        return wrapper.prompt_tokenizer


def _judged(tokens: Any, labels: Any) -> Judged:
    return Judged(len(tokens), sum(label != _IGNORED for label in labels))
