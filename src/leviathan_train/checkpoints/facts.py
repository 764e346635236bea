"""What training had reached at a checkpoint: step, losses, learning rate, the best so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, SupportsFloat


@dataclass(frozen=True)
class Facts:
    """What training had reached at a checkpoint.

    Attributes:
        eval_loss: that of the last evaluation, made at `eval_step`, at this step or before.
        best_eval_loss: the lowest of all evaluations so far.
        best_step: the step that transformers tracks as best, by `best_metric`.
        metric: what the config's `metric_for_best_model` names, as it is logged.
        metric_value: its value at the last evaluation.
    """

    step: int
    epoch: float | None = None
    loss: float | None = None
    eval_loss: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    max_steps: int | None = None
    best_step: int | None = None
    best_metric: float | None = None
    metric: str | None = None
    eval_step: int | None = None
    best_eval_loss: float | None = None
    metric_value: float | None = None
    greater_is_better: bool = False

    @classmethod
    def from_json(cls, value: Any) -> Facts:
        """The facts a document holds, whatever version wrote it.

        Raises:
            TypeError, ValueError: it holds none.
        """
        known = {
            key: _TYPED[kind](item)
            for key, item in dict(value).items()
            if (kind := _FACTS.get(key)) is not None
        }
        if known.get("step") is None:
            raise TypeError("a step is a whole number")
        return cls(**known)


_FACTS: Mapping[str, str] = {item.name: str(item.type) for item in fields(Facts)}


def facts_of(
    state: Mapping[str, Any], metric: str | None = None, *, greater_is_better: bool = False
) -> Facts:
    """The facts that a trainer's state (as a mapping) holds.

    Args:
        metric: `metric_for_best_model`, which the state does not name; with or without `eval_`,
            as in transformers.
    """
    if metric is not None:
        metric = f"eval_{metric.removeprefix('eval_')}"
        if metric == "eval_loss" and not greater_is_better:
            metric = None  # as where none is named, which older checkpoints do not tell apart
    history = [entry for entry in state.get("log_history") or [] if isinstance(entry, dict)]
    evaluated = [entry for entry in history if "eval_loss" in entry or metric in entry]
    losses = [loss for e in evaluated if (loss := finite(e.get("eval_loss"))) is not None]

    def last(key: str) -> float | None:
        return next((finite(entry[key]) for entry in reversed(history) if key in entry), None)

    return Facts(
        step=state["global_step"],
        epoch=finite(state.get("epoch")),
        loss=last("loss"),
        eval_loss=last("eval_loss"),
        learning_rate=last("learning_rate"),
        grad_norm=last("grad_norm"),
        max_steps=_whole(state.get("max_steps")),
        best_step=_whole(state.get("best_global_step")),
        best_metric=finite(state.get("best_metric")),
        eval_step=_whole(evaluated[-1].get("step")) if evaluated else None,
        best_eval_loss=min(losses, default=None),
        metric=metric,
        metric_value=finite(evaluated[-1].get(metric)) if metric and evaluated else None,
        greater_is_better=greater_is_better,
    )


def finite(value: Any) -> float | None:
    """A number that JSON has a word for; NaN and infinity are none."""
    if isinstance(value, bool) or not isinstance(value, SupportsFloat):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _whole(value: Any) -> int | None:
    return value if type(value) is int and abs(value) < 1 << 63 else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


_TYPED: Mapping[str, Callable[[Any], Any]] = {
    "bool": lambda value: value is True,
    "int": _whole,
    "int | None": _whole,
    "float | None": finite,
    "str | None": _text,
}
"""How a fact of each type is taken from a document that may hold anything."""
