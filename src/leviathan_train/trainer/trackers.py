"""One curve for one run in Weights & Biases and TensorBoard, however often it is resumed."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from leviathan_train.run.folder import Run
from leviathan_train.system.files import read_object, write_json


def environment(run: Run, values: Mapping[str, Any], *, resumed: bool) -> dict[str, str]:
    """Variables that make the trackers go on with the run's curve.

    W&B takes its run id from the environment unless the config names `wandb_run_id`;
    TensorBoard would open a new folder at each start.

    Args:
        resumed: whether the log goes on; otherwise a new curve is begun.
    """
    file = run.records / "trackers.json"
    known = read_object(file) if resumed else {}
    if "curve" not in known:
        known = {"curve": secrets.token_hex(4)}
        write_json(file, known)
    found: dict[str, str] = {}
    if (values.get("use_wandb") or values.get("wandb_project")) and not values.get("wandb_run_id"):
        found |= {
            "WANDB_RUN_ID": known["curve"],
            "WANDB_RESUME": "allow",
            "WANDB_DIR": str(run.path),
        }
    if values.get("use_tensorboard"):
        found["TENSORBOARD_LOGGING_DIR"] = str(run.path / "runs" / known["curve"])
    return found
