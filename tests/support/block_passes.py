"""A pass through a block, and the ways to compute its products, for tests of folded blocks."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from ixt.recipe.model import GemmChoice, GemmProduct

IMAGES, CHANNELS, SIDE = 6, 24, 8
Pass = dict[str, Tensor]

PRODUCTS: GemmChoice = {f"{name}-{CHANNELS}": "64x64" for name in get_args(GemmProduct)}
GEMMS = pytest.mark.parametrize(
    "gemm", ["cublas", "triton", PRODUCTS], ids=["cublas", "triton", "products"]
)


def images(mean: float = 0.0, dtype: Any = torch.float64) -> Tensor:
    x = mean + torch.randn(IMAGES, CHANNELS, SIDE, SIDE + 1, dtype=dtype)
    return x.contiguous(memory_format=torch.channels_last)


def run(net: nn.Module, x: Tensor, half: bool = False) -> Pass:
    """Output, gradients and buffers of one pass, with the same paths dropped every time."""
    net.zero_grad()
    torch.manual_seed(3)
    x = x.detach().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        out = net(x)
    out.backward(torch.randn(out.shape, dtype=torch.float64).to(out.dtype))
    grads = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    buffers = {name: buffer.clone() for name, buffer in net.named_buffers()}
    assert x.grad is not None
    return {"output": out.detach(), "input": x.grad, **grads, **buffers}
