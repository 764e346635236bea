"""What counts as loaded, when a checkpoint is resumed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from leviathan_train.errors import LeviathanError
from leviathan_train.trainer.optimizer_settings import fresh_groups
from leviathan_train.trainer.proof import prove_loaded


def trained(decay: float = 0.1) -> torch.optim.AdamW:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], weight_decay=decay)
    weight.sum().backward()
    optimizer.step()
    return optimizer


def trainer_with(optimizer: torch.optim.Optimizer) -> Any:
    return SimpleNamespace(
        is_deepspeed_enabled=False, is_fsdp_enabled=False, optimizer=optimizer, lr_scheduler=None
    )


def test_settings_that_axolotl_takes_from_the_config_are_no_fault(tmp_path: Path) -> None:
    torch.save(trained(decay=0.1).state_dict(), tmp_path / "optimizer.pt")
    live = trained(decay=5.0)
    fresh = fresh_groups(live)
    assert list(prove_loaded(trainer_with(live), tmp_path, fresh)) == ["optimizer state"]
    live.param_groups[0]["weight_decay"] = 0.7  # neither the file's nor the config's
    with pytest.raises(LeviathanError, match="optimizer state did not load"):
        list(prove_loaded(trainer_with(live), tmp_path, fresh))


def test_state_that_did_not_load_is_a_fault(tmp_path: Path) -> None:
    torch.save(trained().state_dict(), tmp_path / "optimizer.pt")
    live = trained()
    (entry,) = live.state.values()
    entry["exp_avg"][1] += 1
    with pytest.raises(LeviathanError, match="optimizer state did not load"):
        list(prove_loaded(trainer_with(live), tmp_path, fresh_groups(live)))
