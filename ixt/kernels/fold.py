"""The steps of a block whose batch norm, layer scale and drop-path are folded into its MLP.

Batch norm in front of a linear layer is another linear layer (a = weight / deviation):

    w1' = w1 a,    b1' = b1 + w1 bias - w1' mean

so no pass normalises an image. From the gradients of w1' and b1' follow those of w1 and of the
norm, and also the two sums over pixels that batch norm's backward needs (u is the gradient of the
linear layer's input, t that input):

    sum u = w1'^T db1',    sum u t = sum over rows of w1' * dw1'

so no pass reads u and t for them. Layer scale is w2' = gamma w2, b2' = gamma b2. Drop-path is 0 or
1 per image, by which the passes beside the matrix products multiply; what makes up for the dropped
ones is one number, the gain of w2' and b2'.

Each operator is plain PyTorch on a CPU and in float64, one or two Triton launches on a CUDA device.
Matrices of images are (rows, channels), a row per pixel: NHWC in memory. None has a gradient of its
own: `folded.py` puts them together.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ixt.kernels.operators import operator, wide


def per_row(scale: Tensor | None, rows: int) -> Tensor | float:
    """A scale of each image (N,), for its pixels: (rows, 1)."""
    return 1.0 if scale is None else scale.repeat_interleave(rows // len(scale))[:, None]


def _terms(moments: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, ...]:
    """Scale, mean, inverse deviation and bias of a batch norm."""
    inverse = (moments[1] + eps).rsqrt()
    return weight.to(moments.dtype) * inverse, moments[0], inverse, bias.to(moments.dtype)


@operator("fold")
def fold_weights(
    w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, gamma: Tensor | None, gain: float,
    moments: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """w1', b1', w2' in `dtype` and b2' in the type of moments; (hidden, C) and (C, hidden).

    moments is (2 or more, C): mean and biased variance of the norm's input.
    """
    scale, mean, _, beta = _terms(moments, weight, bias, eps)
    first = w1.to(moments.dtype)
    folded = (first * scale).to(dtype)
    offset = b1.to(moments.dtype) + first @ beta - folded.to(moments.dtype) @ mean
    gains = gain * (torch.ones_like(beta) if gamma is None else gamma.to(moments.dtype))
    second = (w2.to(moments.dtype) * gains[:, None]).to(dtype)
    return folded, offset.to(dtype), second, b2.to(moments.dtype) * gains


@operator("fold")
def unfold_weights(
    d_w1: Tensor, d_b1: Tensor, d_w2: Tensor, d_b2: Tensor, folded: Tensor,
    w1: Tensor, w2: Tensor, b2: Tensor, gamma: Tensor | None, gain: float,
    moments: Tensor, weight: Tensor, bias: Tensor, eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of w1, w2, b2, gamma and the norm's weight and bias; and sums over pixels.

    They follow from those of w1', b1', w2' and b2', which are of the wide type, and from w1'. That
    of gamma is empty without one. The sums, of u and of u (t - mean), are (2, C).
    """
    scale, mean, inverse, beta = _terms(moments, weight, bias, eps)
    grad = d_w1 * scale + d_b1[:, None] * (beta - scale * mean)
    whole, small = w1.to(d_w1.dtype), folded.to(d_w1.dtype)
    d_bias, sum_u = d_b1 @ whole, d_b1 @ small
    d_weight = inverse * ((whole * d_w1).sum(0) - mean * d_bias)
    sums = torch.stack([sum_u, (small * d_w1).sum(0) - mean * sum_u])
    d_w2, d_b2 = d_w2 * gain, d_b2 * gain
    d_gamma = b2.new_empty(0)
    if gamma is not None:
        d_gamma = ((d_w2 * w2.to(d_w2.dtype)).sum(1) + d_b2 * b2.to(d_b2.dtype)).to(gamma.dtype)
        gains = gamma.to(d_b2.dtype)
        d_w2, d_b2 = d_w2 * gains[:, None], d_b2 * gains
    second = (d_w2.to(w2.dtype), d_b2.to(b2.dtype), d_gamma)
    return grad.to(w1.dtype), *second, d_weight.to(weight.dtype), d_bias.to(bias.dtype), sums


@operator("stats", mutates=("mean", "variance", "updates"))
def update_averages(
    moments: Tensor, mean: Tensor, variance: Tensor, updates: Tensor, momentum: float
) -> None:
    """Move batch norm's running statistics and the number of updates, as batch norm does.

    moments is (3, C): mean less the running one, biased and unbiased variance of a batch.
    """
    updates.add_(1)
    mean.add_(moments[0].to(mean.dtype), alpha=momentum)
    variance.lerp_(moments[2].to(variance.dtype), momentum)


@operator("mlp")
def wide_product(a: Tensor, b: Tensor) -> Tensor:
    """A matrix product that keeps the digits of its fp32 sums: a gradient of weights."""
    return wide(a) @ wide(b)


@operator("mlp")
def scaled_gelu(hidden: Tensor, scale: Tensor | None) -> Tensor:
    """GELU of (rows, hidden), exact, times the scale (N,) of the image that a row belongs to."""
    return (F.gelu(wide(hidden)) * per_row(scale, len(hidden))).to(hidden.dtype)


@operator("mlp")
def scaled_gelu_grad(hidden: Tensor, grad: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor]:
    """Gradient of `scaled_gelu`'s input, and its sum over rows in the wide type: of a bias."""
    out = torch.ops.aten.gelu_backward(wide(grad), wide(hidden)) * per_row(scale, len(hidden))
    return out.to(hidden.dtype), out.sum(0)


@operator("mlp")
def scaled_add(
    y: Tensor, x: Tensor, bias: Tensor, scale: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """X + y + scale x bias in `dtype`: (rows, C), bias (C,) in the wide type, scale (N,)."""
    return (wide(x) + wide(y) + per_row(scale, len(y)) * bias).to(dtype)


@operator("mlp")
def norm_grad(grad: Tensor, inputs: Tensor, sums: Tensor, moments: Tensor, eps: float) -> Tensor:
    """Gradient of batch norm's inputs (rows, C), from that through the folded weights alone.

    `grad` is u above. `inputs` is what batch norm read; their mean and biased variance are
    `moments`, (2 or more, C). `sums` are `unfold_weights`'s, (2, C). Both are in the wide type.
    """
    slope = -sums[1] / (moments[1] + eps) / len(inputs)
    level = -sums[0] / len(inputs) - slope * moments[0]
    return (wide(grad) + level + slope * wide(inputs)).to(grad.dtype)


@operator("mlp")
def scaled_sum(x: Tensor, scale: Tensor | None) -> Tensor:
    """The sum of (rows, C) over rows, each times its image's scale (N,), in the wide type."""
    return (wide(x) * per_row(scale, len(x))).sum(0)
