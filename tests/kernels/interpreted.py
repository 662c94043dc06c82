"""Run the Triton kernels on a CPU against float64 autograd: `interpreted.py SEED SIZE...`.

A process of its own: Triton reads TRITON_INTERPRET when a kernel's module is imported. Each SIZE
is N,C,G,H,W,S,B,dilation,dtype,order. Prints the largest error of each result, relative to its
largest value, as JSON.
"""

from __future__ import annotations

import json
import sys

import torch
import torch.nn.functional as F
from torch import Tensor

from ixt.kernels.inception_triton import Weights, mix, weight_grads

NAMES = ("square", "row", "column", "square_bias", "row_bias", "column_bias")


def reference(x: Tensor, weights: dict[str, Tensor], dilation: int) -> Tensor:
    """The mixer in plain PyTorch."""
    groups = len(weights["square"])
    passed, *parts = torch.split(x, (x.shape[1] - 3 * groups, groups, groups, groups), dim=1)
    branches = [
        F.conv2d(
            part, weights[name], weights[f"{name}_bias"], dilation=dilation, groups=groups,
            padding=tuple(dilation * (k // 2) for k in weights[name].shape[2:]),  # type: ignore[arg-type]
        )
        for name, part in zip(NAMES, parts, strict=False)
    ]  # fmt: skip
    return torch.cat((passed, *branches), dim=1)


def errors(size: str) -> dict[str, float]:
    """Largest relative error of each result of one size; NaN where nothing was written."""
    *numbers, dtype_name, order = size.split(",")
    n, c, g, h, w, s, b, dilation = map(int, numbers)
    dtype = getattr(torch, dtype_name)
    memory_format = getattr(torch, order)
    x, grad = (
        torch.randn(n, c, h, w).to(dtype).contiguous(memory_format=memory_format) for _ in range(2)
    )
    shapes = ((g, 1, s, s), (g, 1, 1, b), (g, 1, b, 1), (g,), (g,), (g,))
    weights = {name: torch.randn(shape) for name, shape in zip(NAMES, shapes, strict=True)}
    wide = {name: weight.double().requires_grad_() for name, weight in weights.items()}
    wide_x = x.double().requires_grad_()
    expected = reference(wide_x, wide, dilation)
    expected.backward(grad.double())

    out, x_grad = (torch.full_like(x, float("nan")) for _ in range(2))
    weight_grad = {name: torch.full_like(weight, float("nan")) for name, weight in weights.items()}
    mix(x, out, Weights(**weights), dilation)
    mix(grad, x_grad, Weights(*(weights[name] for name in NAMES[:3])), dilation, backward=True)
    weight_grads(x, grad, Weights(**weight_grad), dilation)

    pairs = {"output": (out, expected), "input": (x_grad, wide_x.grad)}
    pairs |= {name: (weight_grad[name], wide[name].grad) for name in NAMES}
    return {
        name: float((found.double() - right).abs().max() / right.abs().max())
        for name, (found, right) in pairs.items()
        if right is not None
    }


if __name__ == "__main__":
    torch.manual_seed(int(sys.argv[1]))
    print(json.dumps([errors(size) for size in sys.argv[2:]]))
