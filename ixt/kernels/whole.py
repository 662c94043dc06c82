"""A folded block's MLP in one kernel each way round, where its channels are few enough for that.

Forward, fc1, GELU, fc2 and the residual sum are one pass over rows: the activation never reaches
memory. Backward is one pass for the gradients of weights and one for that of the input, which both
compute the activation and the gradient of hidden features themselves; the second also adds what a
batch norm in front of the MLP gives its input.

Operators are plain PyTorch on a CPU and in float64. None has a gradient of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ixt.kernels.fold import scaled_sum, wide_product
from ixt.kernels.gemm import (
    product_add,
    product_gelu,
    product_gelu_grad,
    product_norm_grad,
)
from ixt.kernels.operators import operator

_TILE = ""  # of no meaning to the plain operators


@operator("whole")
def whole_mlp(
    t: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, x: Tensor, scale: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """X + scale x (GELU(t w1^T + b1) w2^T + b2) in `dtype`.

    t and x are (rows, C), w1 (hidden, C), w2 (C, hidden), b2 of the wide type, scale (N,).
    """
    _, active = product_gelu(t, w1, b1, scale, _TILE)
    return product_add(active, w2, x, b2, scale, dtype, _TILE)


@operator("whole")
def whole_weight_grad(
    grad: Tensor, t: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, scale: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of w1, b1, w2 and b2 in the wide type, from that of `whole_mlp`'s result."""
    small, d_b2 = grad.to(t.dtype), scaled_sum(grad, scale)
    hidden, active = product_gelu(t, w1, b1, scale, _TILE)
    d_hidden, sums = product_gelu_grad(small, w2, hidden, scale, _TILE)
    d_b1 = sums[: len(b1)].clone()
    return wide_product(d_hidden.t(), t), d_b1, wide_product(small.t(), active), d_b2


@operator("whole")
def whole_input_grad(
    grad: Tensor, t: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, scale: Tensor | None,
    sums: Tensor | None, moments: Tensor | None, eps: float,
) -> Tensor:  # fmt: skip
    """Gradient of t from that of `whole_mlp`'s result; with sums and moments, `fold.norm_grad`."""
    hidden, _ = product_gelu(t, w1, b1, scale, _TILE)
    d_hidden, _ = product_gelu_grad(grad.to(t.dtype), w2, hidden, scale, _TILE)
    if sums is None or moments is None:
        return torch.mm(d_hidden, w1)
    return product_norm_grad(d_hidden, w1, t, sums, moments, eps, _TILE)
