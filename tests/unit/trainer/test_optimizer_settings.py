"""Which part of an optimizer's groups is a setting, and which is state."""

from __future__ import annotations

from typing import Any

import torch

from leviathan_train.trainer.optimizer_settings import fresh_groups, name_weight_decay


class Counting(torch.optim.SGD):
    """An optimizer that keeps a count in its groups, as schedule-free ones do."""

    def __init__(self, params: list[torch.nn.Parameter], lr: float = 0.1) -> None:
        super().__init__(params, lr=lr, momentum=0.9)
        for group in self.param_groups:
            group |= {"k": 0, "train_mode": False}


def test_what_the_constructor_takes_is_a_setting_and_nothing_else() -> None:
    optimizer = Counting([torch.nn.Parameter(torch.zeros(2))])
    (group,) = fresh_groups(optimizer)
    assert {"lr", "momentum", "weight_decay"} <= group.keys()
    assert not {"k", "train_mode", "params"} & group.keys()


def test_a_group_with_a_rate_of_its_own_keeps_it() -> None:
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [{"params": weights[:1], "lr": 0.5}, {"params": weights[1:]}]
    assert [group["lr"] for group in fresh_groups(torch.optim.AdamW(groups, lr=0.1))] == [0.5, 0.1]


def test_the_settings_are_those_of_the_optimizer_within_its_wrappers() -> None:
    """accelerate wraps it, and so does DeepSpeed; neither takes a weight decay itself."""
    inner = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], weight_decay=0.3)
    (group,) = fresh_groups(Wrapper(Wrapper(inner)))
    assert group["weight_decay"] == 0.3


class Wrapper:
    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer
        self.param_groups = optimizer.param_groups


def test_a_weight_decay_of_another_name_gets_the_name_that_axolotl_asks_for() -> None:
    """Axolotl 0.21 reads `weight_decay` of every group at a resume; its Muon has `wd`."""

    class Muon(torch.optim.Optimizer):
        def __init__(self, params: list[torch.nn.Parameter], wd: float = 0.1) -> None:
            super().__init__(params, {"lr": 0.1, "wd": wd})

    weights = [torch.nn.Parameter(torch.zeros(1))]
    for optimizer, decay in ((Muon(weights, wd=0.3), 0.3), (torch.optim.SGD(weights, lr=0.1), 0)):
        name_weight_decay(optimizer)
        assert [group["weight_decay"] for group in optimizer.param_groups] == [decay]
        assert fresh_groups(optimizer)[0]["weight_decay"] == decay
