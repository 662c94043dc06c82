"""Weights in another memory order than a checkpoint's, and kernels that read them as they lie."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ixt.distributed.engine import optimizer_state
from ixt.kernels import lay_out_filters
from ixt.kernels.modules import FusedMixer


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.stem = nn.Conv2d(3, 4, 2)
        self.mixer = FusedMixer(nn.Conv2d(4, 4, 3, padding=1, groups=4))
        self.to(memory_format=torch.channels_last)
        lay_out_filters(self)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.mixer(self.stem(x))
        return out


def advance(net: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    torch.manual_seed(seed)
    optimizer.zero_grad()
    net(torch.randn(2, 3, 5, 6)).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("kwargs", [{}, {"fused": True}, {"foreach": True}])
def test_moments_take_the_memory_order_of_their_weights(kwargs: dict[str, Any]) -> None:
    nets = Net(), Net()
    optimizers = [torch.optim.AdamW(net.parameters(), lr=0.1, **kwargs) for net in nets]
    advance(nets[0], optimizers[0], seed=0)
    state, groups = optimizer_state.read(nets[0], optimizers[0], torch.device("cpu"))
    # Files hold every tensor in the order of its dimensions.
    plain = partial(torch.clone, memory_format=torch.contiguous_format)
    saved = {name: {key: plain(value) for key, value in one.items()} for name, one in state.items()}
    nets[1].load_state_dict(nets[0].state_dict())
    optimizer_state.write(nets[1], optimizers[1], saved, groups)
    for step in (1, 2):
        for net, optimizer in zip(nets, optimizers, strict=True):
            advance(net, optimizer, step)
    for own, expected in zip(nets[1].parameters(), nets[0].parameters(), strict=True):
        assert own.stride() == expected.stride()
        assert torch.equal(own, expected)
    weights = dict(nets[1].named_parameters())
    assert weights["mixer.weight"].stride()[0] == 1
    assert weights["stem.weight"].is_contiguous(memory_format=torch.channels_last)


def test_a_resumed_optimizer_is_recorded_where_this_run_records_it() -> None:
    first, then = (
        torch.optim.AdamW(Net().parameters(), fused=True, capturable=graph)
        for graph in (True, False)
    )
    nets = Net(), Net()
    for optimizer in (first, then):
        optimizer.param_groups[0]["weight_decay"] = 0.5 if optimizer is first else 0.1
    state, groups = optimizer_state.read(nets[0], first, torch.device("cpu"))
    optimizer_state.write(nets[1], then, state, groups)
    assert then.param_groups[0]["weight_decay"] == 0.5
    assert then.param_groups[0]["capturable"] is False
