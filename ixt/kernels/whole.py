"""A folded block's MLP in one kernel each way round, where its channels are few enough for that.

Forward, fc1, GELU, fc2 and the residual sum are one pass over rows: the activation never reaches
memory. Backward is one pass for the gradients of weights and one for that of the input, which both
compute the activation and the gradient of hidden features themselves; the second also adds what a
batch norm in front of the MLP gives its input. Hidden features before GELU are kept from the
forward pass, or computed again: less memory, more arithmetic.

Operators are plain PyTorch on a CPU and in float64. None has a gradient of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ixt.kernels.fold import scaled_gelu, scaled_sum, wide_product
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
    dtype: torch.dtype, keep: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """X + scale x (GELU(t w1^T + b1) w2^T + b2) in `dtype`, and the hidden features.

    t and x are (rows, C), w1 (hidden, C), w2 (C, hidden), b2 of the wide type, scale (N,).
    Hidden features are (rows, hidden), empty unless they are to be kept.
    """
    hidden, active = product_gelu(t, w1, b1, scale, _TILE)
    out = product_add(active, w2, x, b2, scale, dtype, _TILE)
    return out, hidden if keep else hidden.new_empty(0)


@operator("whole")
def whole_weight_grad(
    grad: Tensor, t: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, hidden: Tensor | None,
    scale: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of w1, b1 and w2 in the wide type, from that of `whole_mlp`'s first result."""
    grad = grad.to(t.dtype)
    d_hidden, d_b1, active = _between(grad, t, w1, b1, w2, hidden, scale)
    return wide_product(d_hidden.t(), t), d_b1, wide_product(grad.t(), active)


@operator("whole")
def whole_input_grad(
    grad: Tensor, t: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, hidden: Tensor | None,
    scale: Tensor | None, sums: Tensor | None, moments: Tensor | None, eps: float, count: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradient of t, and that of b2 in the wide type, from that of `whole_mlp`'s first result.

    With sums and moments, that of t is `fold.norm_grad` of it.
    """
    d_hidden, _, _ = _between(grad.to(t.dtype), t, w1, b1, w2, hidden, scale)
    d_b2 = scaled_sum(grad, scale)
    if sums is None or moments is None:
        return torch.mm(d_hidden, w1), d_b2
    return product_norm_grad(d_hidden, w1, t, sums, moments, eps, count, _TILE), d_b2


def _between(
    grad: Tensor, t: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, hidden: Tensor | None,
    scale: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradient of hidden features, that of their bias, and the activation."""
    if hidden is None:
        hidden, active = product_gelu(t, w1, b1, scale, _TILE)
    else:
        active = scaled_gelu(hidden, scale)
    d_hidden, sums = product_gelu_grad(grad, w2, hidden, scale, _TILE)
    return d_hidden, sums[: len(b1)].clone(), active
