from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ixt.training.ema import Ema


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def test_the_average_follows_the_plain_formula() -> None:
    net = model()
    ema = Ema(net)
    expected = {name: tensor.clone() for name, tensor in ema.tensors.items()}
    for _ in range(5):
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(torch.randn_like(parameter))
        net(torch.randn(8, 3))
        ema.update(0.9)
        state = net.state_dict()
        expected = {name: 0.9 * old + 0.1 * state[name] for name, old in expected.items()}
    assert set(expected) == {name for name in net.state_dict() if "num_batches" not in name}
    for name, tensor in ema.tensors.items():
        torch.testing.assert_close(tensor, expected[name])


def test_swapping_in_and_out_leaves_every_bit_as_it_was() -> None:
    net: Any = model()
    ema = Ema(net)
    with torch.no_grad():
        net[0].weight.add_(1.0)
    before = net[0].weight.clone()
    with ema.swapped():
        assert not torch.equal(net[0].weight, before)
    assert torch.equal(net[0].weight, before)
