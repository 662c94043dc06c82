"""Depthwise bands with the statistics of the batch norm that follows, and its gradient.

The operators of `bands.py`, once more for a block that folds its batch norm (`folded.py`): the
forward pass takes a shift off its output and also gives mean and variance, so that no pass reads
the output for them; the backward passes finish batch norm's gradient while they read it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ixt.kernels.bands import (
    Bands,
    bands_input_grad,
    bands_weight_grad,
    dense,
    depthwise_bands,
    empty,
    like,
    memory_format,
    ordered,
)
from ixt.kernels.operators import operator, wide, wide_dtype


def _forward_plain(
    x: Tensor, filters: Sequence[Tensor], biases: Sequence[Tensor], dilation: int, shift: Tensor,
    stats: bool, dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    # Quantities that the kernel keeps in fp32 until it stores them, in fp32 here, too.
    out = depthwise_bands(wide(x), filters, biases, dilation) - shift.reshape(-1, 1, 1)
    out = out.to(dtype)
    if not stats:
        return out, x.new_empty(3, 0, dtype=wide_dtype(dtype))
    variance, mean = torch.var_mean(wide(out), (0, 2, 3), correction=0)
    count = out.numel() // out.shape[1]
    return out, torch.stack([mean, variance, variance * (count / max(count - 1, 1))])


def _forward_fused(
    x: Tensor, filters: Sequence[Tensor], biases: Sequence[Tensor], dilation: int, shift: Tensor,
    stats: bool, dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    from ixt.kernels import triton_bands, triton_stats

    out, moments = _forward_fake(x, filters, biases, dilation, shift, stats, dtype)
    x = ordered(x)
    tiles, tile_pixels = triton_bands.num_tiles(x, Bands.of(filters, dilation))
    images, pixels = x.shape[0], x.shape[2] * x.shape[3]
    room = moments.new_empty(images * tiles, 2, x.shape[1]) if stats else None
    triton_bands.convolve(x, out, dense(filters), dense(biases), dilation, shift, room)
    if room is not None:
        moments = triton_stats.moments_of(room, images, tile_pixels, pixels)
    return out, moments


def _forward_fake(
    x: Tensor, filters: Sequence[Tensor], biases: Sequence[Tensor], dilation: int, shift: Tensor,
    stats: bool, dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    moments = x.new_empty(3, x.shape[1] if stats else 0, dtype=wide_dtype(dtype))
    return like(x, dtype), moments


bands_moments = operator(
    "bands_moments(Tensor x, Tensor[] filters, Tensor[] biases, int dilation, Tensor shift, "
    "bool stats, ScalarType dtype) -> (Tensor, Tensor)",
    _forward_plain, _forward_fused, _forward_fake,
)  # fmt: skip
"""The bands' output less a shift (C,), in `dtype`; (3, C) in the wide type: its mean, its biased
and its unbiased variance over all pixels; (3, 0) without `stats`."""


def _norm_grad(
    u: Tensor, inputs: Tensor, sums: Tensor, moments: Tensor, eps: float, count: float
) -> Tensor:
    """Batch norm's gradient, from that of its folded output before its own two reductions."""
    slope = -sums[1] / (moments[1] + eps) / count
    level = -sums[0] / count - slope * moments[0]
    return wide(u) + level.reshape(-1, 1, 1) + slope.reshape(-1, 1, 1) * wide(inputs)


def _input_grad_plain(
    u: Tensor, filters: Sequence[Tensor], dilation: int, residual: Tensor, inputs: Tensor,
    sums: Tensor, moments: Tensor, eps: float, count: float, norm: bool,
) -> Tensor:  # fmt: skip
    grad = _norm_grad(u, inputs, sums, moments, eps, count) if norm else wide(u)
    out = bands_input_grad(grad, filters, dilation) + wide(residual)
    return like(u, residual.dtype).copy_(out)


def _input_grad_fused(
    u: Tensor, filters: Sequence[Tensor], dilation: int, residual: Tensor, inputs: Tensor,
    sums: Tensor, moments: Tensor, eps: float, count: float, norm: bool,
) -> Tensor:  # fmt: skip
    from ixt.kernels import triton_bands

    out = like(u, residual.dtype)
    grad = triton_bands.NormGrad(inputs, sums, moments, eps, count) if norm else None
    triton_bands.convolve_grad(ordered(u), out, dense(filters), dilation, grad, residual)
    return out


bands_norm_input_grad = operator(
    "bands_norm_input_grad(Tensor u, Tensor[] filters, int dilation, Tensor residual, "
    "Tensor inputs, Tensor sums, Tensor moments, float eps, float count, bool norm) -> Tensor",
    _input_grad_plain, _input_grad_fused,
    lambda u, filters, dilation, residual, *_: like(u, residual.dtype),
)  # fmt: skip
"""Gradient of the bands' input plus a residual, in the residual's type.

u is the gradient of batch norm's input `inputs` as far as it comes through the folded weights; with
`norm`, `fold.unfold_norm`'s sums over `count` pixels complete it."""


def _weight_grad_plain(
    x: Tensor, u: Tensor, filters: Sequence[Tensor], biases: Sequence[Tensor], dilation: int,
    inputs: Tensor, sums: Tensor, moments: Tensor, eps: float, count: float, norm: bool,
) -> list[Tensor]:  # fmt: skip
    grad = _norm_grad(u, inputs, sums, moments, eps, count) if norm else wide(u)
    grads: list[Tensor] = bands_weight_grad(wide(x), grad, filters, biases, dilation)
    return grads


def _weight_grad_fused(
    x: Tensor, u: Tensor, filters: Sequence[Tensor], biases: Sequence[Tensor], dilation: int,
    inputs: Tensor, sums: Tensor, moments: Tensor, eps: float, count: float, norm: bool,
) -> list[Tensor]:  # fmt: skip
    from ixt.kernels import triton_band_grads, triton_bands

    out = empty([*filters, *biases])
    grad = triton_bands.NormGrad(inputs, sums, moments, eps, count) if norm else None
    u = u.contiguous(memory_format=memory_format(x))
    bands = len(filters)
    triton_band_grads.weight_grads(
        ordered(x), u, tuple(out[:bands]), tuple(out[bands:]), dilation, grad
    )
    return out


bands_norm_weight_grad = operator(
    "bands_norm_weight_grad(Tensor x, Tensor u, Tensor[] filters, Tensor[] biases, int dilation, "
    "Tensor inputs, Tensor sums, Tensor moments, float eps, float count, bool norm) -> Tensor[]",
    _weight_grad_plain, _weight_grad_fused,
    lambda x, u, filters, biases, *_: empty([*filters, *biases]),
)  # fmt: skip
"""Gradients of the filters, then of the biases; u and what follows as above."""
