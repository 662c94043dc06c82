"""The steps of a block whose batch norm, layer scale and drop-path are folded into its MLP.

Batch norm in front of a linear layer is another linear layer (a = weight / deviation):

    w1' = w1 a,    b1' = b1 + w1 bias - w1' mean

so no pass normalises an image. From the gradients of w1' and b1' follow those of w1 and of the
norm, and also the two sums over pixels that batch norm's backward needs (u is the gradient of the
linear layer's input, t that input):

    sum u = w1'^T db1',    sum u t = sum over rows of w1' * dw1'

so no pass reads u and t for them. Layer scale is w2' = gamma w2, b2' = gamma b2; drop-path is one
number per image, by which the passes beside the matrix products multiply.

Each operator is plain PyTorch on a CPU and in float64, one or two Triton launches on a CUDA device.
Matrices of images are (rows, channels), a row per pixel: NHWC in memory. None has a gradient of its
own: `folded.py` puts them together.
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ixt.kernels.operators import operator, wide, wide_dtype


def per_row(scale: Tensor | None, rows: int) -> Tensor | float:
    """A scale of each image (N,), for its pixels: (rows, 1)."""
    return 1.0 if scale is None else scale.repeat_interleave(rows // len(scale))[:, None]


def _terms(moments: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, ...]:
    """Scale, mean, inverse deviation and bias of a batch norm."""
    inverse = (moments[1] + eps).rsqrt()
    return weight.to(moments.dtype) * inverse, moments[0], inverse, bias.to(moments.dtype)


def _fold_plain(
    w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, gamma: Tensor | None,
    moments: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    scale, mean, _, beta = _terms(moments, weight, bias, eps)
    first = w1.to(moments.dtype)
    folded = (first * scale).to(dtype)
    offset = b1.to(moments.dtype) + first @ beta - folded.to(moments.dtype) @ mean
    gains = torch.ones_like(beta) if gamma is None else gamma.to(moments.dtype)
    second = (w2.to(moments.dtype) * gains[:, None]).to(dtype)
    return folded, offset.to(dtype), second, b2.to(moments.dtype) * gains


def _fold_fused(
    w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, gamma: Tensor | None,
    moments: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    from ixt.kernels import triton_fold

    out = _fold_fake(w1, b1, w2, b2, gamma, moments, weight, bias, eps, dtype)
    norm = triton_fold.Norm(moments, weight, bias, eps)
    triton_fold.fold(norm, w1, b1, w2, b2, gamma, out)
    return out


def _fold_fake(
    w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, gamma: Tensor | None,
    moments: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    return (
        w1.new_empty(w1.shape, dtype=dtype),
        b1.new_empty(b1.shape, dtype=dtype),
        w2.new_empty(w2.shape, dtype=dtype),
        b2.new_empty(b2.shape, dtype=moments.dtype),
    )


fold_weights = operator(
    "fold_weights(Tensor w1, Tensor b1, Tensor w2, Tensor b2, Tensor? gamma, Tensor moments, "
    "Tensor weight, Tensor bias, float eps, ScalarType dtype) -> (Tensor, Tensor, Tensor, Tensor)",
    _fold_plain, _fold_fused, _fold_fake,
)  # fmt: skip
"""w1', b1', w2' in `dtype` and b2' in the type of moments; (hidden, C) and (C, hidden) matrices.

moments is (2 or more, C): mean and biased variance of the norm's input."""


def _unfold_norm_plain(
    d_w1: Tensor, d_b1: Tensor, folded: Tensor, w1: Tensor,
    moments: Tensor, weight: Tensor, bias: Tensor, eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    scale, mean, inverse, beta = _terms(moments, weight, bias, eps)
    grad = d_w1 * scale + d_b1[:, None] * (beta - scale * mean)
    whole, small = w1.to(d_w1.dtype), folded.to(d_w1.dtype)
    d_bias, sum_u = d_b1 @ whole, d_b1 @ small
    d_weight = inverse * ((whole * d_w1).sum(0) - mean * d_bias)
    sums = torch.stack([sum_u, (small * d_w1).sum(0) - mean * sum_u])
    return grad.to(w1.dtype), d_weight.to(weight.dtype), d_bias.to(bias.dtype), sums


def _unfold_norm_fused(
    d_w1: Tensor, d_b1: Tensor, folded: Tensor, w1: Tensor,
    moments: Tensor, weight: Tensor, bias: Tensor, eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    from ixt.kernels import triton_fold

    out = _unfold_norm_fake(d_w1, d_b1, folded, w1, moments, weight, bias, eps)
    norm = triton_fold.Norm(moments, weight, bias, eps)
    triton_fold.unfold_norm(norm, d_w1, d_b1, folded, w1, out)
    return out


def _unfold_norm_fake(
    d_w1: Tensor, d_b1: Tensor, folded: Tensor, w1: Tensor,
    moments: Tensor, weight: Tensor, bias: Tensor, eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    sums = d_w1.new_empty(2, d_w1.shape[1])
    return w1.new_empty(w1.shape), torch.empty_like(weight), torch.empty_like(bias), sums


unfold_norm = operator(
    "unfold_norm(Tensor d_w1, Tensor d_b1, Tensor folded, Tensor w1, Tensor moments, "
    "Tensor weight, Tensor bias, float eps) -> (Tensor, Tensor, Tensor, Tensor)",
    _unfold_norm_plain, _unfold_norm_fused, _unfold_norm_fake,
)  # fmt: skip
"""Gradients of w1 and of the norm's weight and bias, from those of w1' and b1' in the wide type;
and (2, C): the sums over pixels of u, and of u (t - mean)."""


def _unfold_scale_plain(
    d_w2: Tensor, d_b2: Tensor, w2: Tensor, b2: Tensor, gamma: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    gains = d_b2.new_ones(()) if gamma is None else gamma.to(d_b2.dtype)
    d_gamma = (d_w2 * w2.to(d_w2.dtype)).sum(1) + d_b2 * b2.to(d_b2.dtype)
    d_gamma = d_gamma[:0].to(b2.dtype) if gamma is None else d_gamma.to(gamma.dtype)
    d_w2 = d_w2 * gains.reshape(-1, 1)
    return d_w2.to(w2.dtype), (d_b2 * gains).to(b2.dtype), d_gamma


def _unfold_scale_fused(
    d_w2: Tensor, d_b2: Tensor, w2: Tensor, b2: Tensor, gamma: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    from ixt.kernels import triton_fold

    out = _unfold_scale_fake(d_w2, d_b2, w2, b2, gamma)
    triton_fold.unfold_scale(d_w2, d_b2, w2, b2, gamma, out)
    return out


def _unfold_scale_fake(
    d_w2: Tensor, d_b2: Tensor, w2: Tensor, b2: Tensor, gamma: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    d_gamma = b2.new_empty(0) if gamma is None else torch.empty_like(gamma)
    return w2.new_empty(w2.shape), torch.empty_like(b2), d_gamma


unfold_scale = operator(
    "unfold_scale(Tensor d_w2, Tensor d_b2, Tensor w2, Tensor b2, Tensor? gamma) "
    "-> (Tensor, Tensor, Tensor)",
    _unfold_scale_plain, _unfold_scale_fused, _unfold_scale_fake,
)  # fmt: skip
"""Gradients of w2, b2 and gamma (empty without one), from those of w2' and b2' in the wide type."""


def _product_plain(a: Tensor, b: Tensor) -> Tensor:
    return wide(a) @ wide(b)


def _product_fused(a: Tensor, b: Tensor) -> Tensor:
    if a.dtype == torch.float32:
        return a @ b
    return torch.mm(a, b, out_dtype=torch.float32)


wide_product = operator(
    "wide_product(Tensor a, Tensor b) -> Tensor",
    _product_plain, _product_fused,
    lambda a, b: a.new_empty(a.shape[0], b.shape[1], dtype=wide_dtype(a.dtype)),
)  # fmt: skip
"""A matrix product that keeps the digits of its fp32 sums: a gradient of weights."""


def _gelu_plain(hidden: Tensor, scale: Tensor | None) -> Tensor:
    return (F.gelu(wide(hidden)) * per_row(scale, len(hidden))).to(hidden.dtype)


def _gelu_fused(hidden: Tensor, scale: Tensor | None) -> Tensor:
    from ixt.kernels import triton_mlp

    out = torch.empty_like(hidden)
    triton_mlp.scaled_gelu(hidden, out, scale)
    return out


scaled_gelu = operator(
    "scaled_gelu(Tensor hidden, Tensor? scale) -> Tensor",
    _gelu_plain, _gelu_fused, lambda hidden, scale: torch.empty_like(hidden),
)  # fmt: skip
"""GELU of (rows, hidden), exact, times the scale (N,) of the image that a row belongs to."""


def _gelu_grad_plain(hidden: Tensor, grad: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor]:
    out = torch.ops.aten.gelu_backward(wide(grad), wide(hidden)) * per_row(scale, len(hidden))
    return out.to(hidden.dtype), out.sum(0)


def _gelu_grad_fused(hidden: Tensor, grad: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor]:
    from ixt.kernels import triton_mlp

    out = torch.empty_like(hidden)
    return out, triton_mlp.scaled_gelu_grad(hidden, grad, out, scale)


scaled_gelu_grad = operator(
    "scaled_gelu_grad(Tensor hidden, Tensor grad, Tensor? scale) -> (Tensor, Tensor)",
    _gelu_grad_plain, _gelu_grad_fused,
    lambda hidden, grad, scale: (
        torch.empty_like(hidden),
        hidden.new_empty(hidden.shape[1], dtype=wide_dtype(hidden.dtype)),
    ),
)  # fmt: skip
"""Gradient of `scaled_gelu`'s input, and its sum over rows in the wide type: a bias's gradient."""


def _add_plain(
    y: Tensor, x: Tensor, bias: Tensor, scale: Tensor | None, dtype: torch.dtype
) -> Tensor:
    return (wide(x) + wide(y) + per_row(scale, len(y)) * bias).to(dtype)


def _add_fused(
    y: Tensor, x: Tensor, bias: Tensor, scale: Tensor | None, dtype: torch.dtype
) -> Tensor:
    from ixt.kernels import triton_mlp

    out = y.new_empty(y.shape, dtype=dtype)
    triton_mlp.add(x, y, bias, out, scale)
    return out


scaled_add = operator(
    "scaled_add(Tensor y, Tensor x, Tensor bias, Tensor? scale, ScalarType dtype) -> Tensor",
    _add_plain, _add_fused,
    lambda y, x, bias, scale, dtype: y.new_empty(y.shape, dtype=dtype),
)  # fmt: skip
"""x + y + scale x bias in `dtype`: (rows, C), bias (C,) in the wide type, scale (N,)."""


def _sum_plain(x: Tensor, scale: Tensor | None) -> Tensor:
    return (wide(x) * per_row(scale, len(x))).sum(0)


def _sum_fused(x: Tensor, scale: Tensor | None) -> Tensor:
    from ixt.kernels import triton_mlp

    return triton_mlp.sum_rows(x, scale)


scaled_sum = operator(
    "scaled_sum(Tensor x, Tensor? scale) -> Tensor",
    _sum_plain, _sum_fused,
    lambda x, scale: x.new_empty(x.shape[1], dtype=wide_dtype(x.dtype)),
)  # fmt: skip
"""The sum of (rows, C) over rows, each times its image's scale (N,), in the wide type."""
