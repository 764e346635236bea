"""A training that is resumed, beside one that never was stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.demo import MakeConfig
from support.driver import differences, training_state
from support.forked import Forge


def resumed_at(
    forge: Forge,
    make: MakeConfig,
    folder: Path,
    step: int,
    *,
    proves_rows: bool = True,
    **more: Any,
) -> Path:
    """Train straight to the end, then from the checkpoint of `step`; no bit may differ.

    Args:
        proves_rows: whether the trainer can tell that the rows are the same.
        more: settings of the config; `patch` as in `Forge.train`.

    Returns:
        The checkpoint that was resumed from.
    """
    patch = more.pop("patch", "")
    (folder / "straight").mkdir()
    (folder / "resumed").mkdir()
    straight = forge.must_train(make(folder / "straight", **more), patch=patch)
    checkpoint = straight.run / f"checkpoint-{step}"
    resume = {"resume_from_checkpoint": str(checkpoint)}
    resumed = forge.must_train(make(folder / "resumed", **more, **resume), patch=patch)
    assert not differences(training_state(straight.checkpoint), training_state(resumed.checkpoint))
    assert ("Same rows in the same order" in resumed.output) == proves_rows
    sums = [done.records_of("metrics.jsonl")[-1]["train_loss"] for done in (straight, resumed)]
    assert sums[0] == sums[1]
    return checkpoint
