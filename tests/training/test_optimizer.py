"""torch's fused AdamW where kernels are on: when it is taken, and that it steps as AdamW does."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from ixt.models import create_model
from ixt.recipe import Optim
from ixt.training.ema import Ema
from ixt.training.optimizer import build_optimizer, set_learning_rate


@pytest.mark.parametrize(
    ("changes", "taken"),
    [
        ({}, True),
        ({"kwargs": {"amsgrad": True}}, True),
        ({"kwargs": {"fused": False}}, False),
        ({"kwargs": {"foreach": True}}, None),
        ({"name": "lamb"}, None),
    ],
)
def test_what_a_recipe_says_of_adamws_kernel_holds(
    changes: dict[str, Any], taken: bool | None
) -> None:
    groups = build_optimizer(nn.Linear(2, 2), Optim(**changes), fused=True).param_groups
    assert {group.get("fused") for group in groups} == {taken}
    assert build_optimizer(nn.Linear(2, 2), Optim()).param_groups[0]["fused"] is None


def test_updates_of_the_fused_kernel_are_adamws_clipping_and_average_included() -> None:
    optim = Optim(lr=0.01, layer_decay=0.7, weight_decay=0.1, max_norm=1.0)
    torch.manual_seed(0)
    exact = create_model("inceptionnext_atto", num_classes=3).double()
    own = copy.deepcopy(exact).float().to(memory_format=torch.channels_last)
    nets = (
        (exact, build_optimizer(exact, optim), Ema(exact)),
        (
            own,
            build_optimizer(own, optim, fused=True),
            Ema(own),
        ),
    )
    for step in range(4):
        gradients = [torch.randn(p.shape) for p in exact.parameters()]
        for net, optimizer, ema in nets:
            for parameter, gradient in zip(net.parameters(), gradients, strict=True):
                parameter.grad = torch.empty_like(parameter).copy_(gradient)
            set_learning_rate(optimizer, 0.01 / (step + 1))
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            ema.update(0.9)
    for name, weight in own.named_parameters():
        right = exact.get_parameter(name)
        torch.testing.assert_close(weight.double(), right, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(nets[1][2].tensors[name], nets[0][2].tensors[name])
