"""Depthwise bands with the statistics of the batch norm that follows, and its gradient.

The operators of `bands.py`, once more for a block that folds its batch norm (`folded.py`): the
forward pass takes a shift off its output and also gives mean and variance, so that no pass reads
the output for them; the backward passes finish batch norm's gradient while they read it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ixt.kernels.bands import bands_input_grad, bands_weight_grad, depthwise_bands
from ixt.kernels.operators import like, operator, wide, wide_dtype


@operator("bands")
def bands_moments(
    x: Tensor, filters: Sequence[Tensor], biases: Sequence[Tensor], dilation: int, shift: Tensor,
    stats: bool, dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The bands' output less a shift (C,), in `dtype`, and its moments: (3, C) in the wide type.

    Those are mean, biased and unbiased variance over all pixels; (3, 0) without `stats`.
    """
    # Quantities that the kernel keeps in fp32 until it stores them, in fp32 here, too.
    out = depthwise_bands(wide(x), filters, biases, dilation) - shift.reshape(-1, 1, 1)
    out = out.to(dtype)
    if not stats:
        return out, x.new_empty(3, 0, dtype=wide_dtype(dtype))
    variance, mean = torch.var_mean(wide(out), (0, 2, 3), correction=0)
    count = out.numel() // out.shape[1]
    return out, torch.stack([mean, variance, variance * (count / max(count - 1, 1))])


def _norm_grad(
    u: Tensor, inputs: Tensor, sums: Tensor, moments: Tensor, eps: float, count: float
) -> Tensor:
    """Batch norm's gradient, from that of its folded output before its own two reductions."""
    slope = -sums[1] / (moments[1] + eps) / count
    level = -sums[0] / count - slope * moments[0]
    return wide(u) + level.reshape(-1, 1, 1) + slope.reshape(-1, 1, 1) * wide(inputs)


@operator("bands")
def bands_norm_input_grad(
    u: Tensor, filters: Sequence[Tensor], dilation: int, residual: Tensor, inputs: Tensor,
    sums: Tensor, moments: Tensor, eps: float, count: float, norm: bool,
) -> Tensor:  # fmt: skip
    """Gradient of the bands' input plus a residual, in the residual's type.

    Args:
        u: gradient of batch norm's input as far as it comes through the folded weights.
        filters: as for `depthwise_bands`.
        dilation: as for `depthwise_bands`.
        residual: like u, of any type.
        inputs: what batch norm read: shape and strides of u.
        sums: (2, C) in the wide type, `fold.unfold_norm`'s, which complete u with `norm`.
        moments: (2 or more, C) in the wide type: mean and biased variance of the inputs.
        eps: batch norm's.
        count: pixels that mean and variance were taken over, of all processes.
        norm: whether they were taken over this batch; u is whole otherwise.
    """
    grad = _norm_grad(u, inputs, sums, moments, eps, count) if norm else wide(u)
    out = bands_input_grad(grad, filters, dilation) + wide(residual)
    return like(u, residual.dtype).copy_(out)


@operator("band_grads")
def bands_norm_weight_grad(
    x: Tensor, u: Tensor, filters: Sequence[Tensor], biases: Sequence[Tensor], dilation: int,
    inputs: Tensor, sums: Tensor, moments: Tensor, eps: float, count: float, norm: bool,
) -> list[Tensor]:  # fmt: skip
    """Gradients of the filters, then of the biases; u and what follows as above."""
    grad = _norm_grad(u, inputs, sums, moments, eps, count) if norm else wide(u)
    return bands_weight_grad(wide(x), grad, filters, biases, dilation)
