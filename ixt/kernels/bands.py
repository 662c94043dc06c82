"""Depthwise bands as PyTorch operators, with gradients, autocast and torch.compile.

    from ixt.kernels.bands import depthwise_bands

    y = depthwise_bands(x, [square, row, column], [square_bias, row_bias, column_bias], 1)

Three bands are InceptionNeXt's mixer; one over all channels is ConvNeXt's depthwise convolution. On
a CUDA device it is one Triton launch, and its gradients are three: one for the input, two for all
filters and biases. Elsewhere, and in float64, the same operators are PyTorch's convolutions.
Weights need no cast: autocast changes the type of the input only, sums are kept in fp32, and
gradients come out in the type of what they belong to.
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_input, conv2d_weight

from ixt.kernels.operators import empty, library, like, operator, wide, wide_dtype


def _parts(x: Tensor, filters: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Channels that pass, and those of each band."""
    groups = filters[0].shape[0]
    return torch.split(x, [x.shape[1] - len(filters) * groups, *(groups for _ in filters)], dim=1)


def _pads(filters: Sequence[Tensor], dilation: int) -> Iterator[tuple[int, int]]:
    for one in filters:
        yield dilation * (one.shape[2] // 2), dilation * (one.shape[3] // 2)


def _check(x: Tensor, filters: Sequence[Tensor]) -> None:
    found = [tuple(one.shape) for one in filters]
    groups = found[0][0] if found else 0
    if not groups or any(
        len(size) != 4 or size[:2] != (groups, 1) or not size[2] % 2 or not size[3] % 2
        for size in found
    ):
        raise ValueError(f"filters of shapes {found}; give (G, 1, height, width) with odd sides")
    least = len(filters) * groups
    if x.ndim != 4 or x.shape[1] < least:
        raise ValueError(f"input of shape {tuple(x.shape)}; give (N, C, H, W), C >= {least}")


@operator("bands")
def depthwise_bands(
    x: Tensor, filters: Sequence[Tensor], biases: Sequence[Tensor], dilation: int
) -> Tensor:
    """Convolve the last channels depthwise, each band of G by filters of its own; pass the others.

    Args:
        x: (N, C, H, W), any floating type, NCHW or NHWC in memory.
        filters: (G, 1, height, width) for each band, odd sides, in the order of the channels.
        biases: (G,) for each band.
        dilation: distance of neighbouring taps, in pixels.

    Returns:
        Shape, type and memory order of x; zeros lie around the image.

    Raises:
        ValueError: the shapes do not fit each other.

    Source: Yu et al. 2024, "InceptionNeXt: When Inception Meets ConvNeXt", algorithm 1.
    """
    _check(x, filters)
    passed, *parts = _parts(x, filters)
    bands = [
        F.conv2d(part, k.to(x.dtype), b.to(x.dtype), 1, pad, dilation, len(k))
        for part, k, b, pad in zip(parts, filters, biases, _pads(filters, dilation), strict=True)
    ]
    return like(x).copy_(torch.cat([passed, *bands], dim=1))


@operator("bands")
def bands_moments(
    x: Tensor, filters: Sequence[Tensor], biases: Sequence[Tensor], dilation: int, shift: Tensor,
    stats: bool, dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The bands' output less a shift (C,), in `dtype`, and its moments: (3, C) in the wide type.

    For a block that folds the batch norm that follows (`folded.py`): no pass reads the output for
    mean, biased and unbiased variance over all pixels. They are (3, 0) without `stats`.
    """
    # Quantities that the kernel keeps in fp32 until it stores them, in fp32 here, too.
    out = depthwise_bands(wide(x), filters, biases, dilation) - shift.reshape(-1, 1, 1)
    out = out.to(dtype)
    if not stats:
        return out, x.new_empty(3, 0, dtype=wide_dtype(dtype))
    variance, mean = torch.var_mean(wide(out), (0, 2, 3), correction=0)
    count = out.numel() // out.shape[1]
    return out, torch.stack([mean, variance, variance * (count / max(count - 1, 1))])


@operator("bands")
def bands_input_grad(
    grad: Tensor, filters: Sequence[Tensor], dilation: int, residual: Tensor | None
) -> Tensor:
    """Gradient of `depthwise_bands`'s input, from its output's; shape and order of `grad`.

    With a residual, their sum in its type.
    """
    if residual is not None:
        grad = wide(grad)  # as in `bands_moments`
    passed, *parts = _parts(grad, filters)
    bands = [
        conv2d_input(
            part.shape, k.to(grad.dtype), part, padding=pad, dilation=dilation, groups=len(k)
        )
        for part, k, pad in zip(parts, filters, _pads(filters, dilation), strict=True)
    ]
    out = torch.cat([passed, *bands], dim=1)
    if residual is None:
        return like(grad).copy_(out)
    return like(grad, residual.dtype).copy_(out + wide(residual))


@operator("band_grads")
def bands_weight_grad(
    x: Tensor, grad: Tensor, filters: Sequence[Tensor], biases: Sequence[Tensor], dilation: int
) -> list[Tensor]:
    """Gradients of `depthwise_bands`'s filters, then of its biases.

    The weights give shapes, types and memory orders only; biases are sums over pixels.
    """
    x, grad, out = wide(x), wide(grad), empty([*filters, *biases])
    parts = zip(_parts(x, filters)[1:], _parts(grad, filters)[1:], strict=True)
    for i, ((part, part_grad), pad) in enumerate(zip(parts, _pads(filters, dilation), strict=True)):
        k = filters[i]
        out[i].copy_(conv2d_weight(part, k.shape, part_grad, 1, pad, dilation, len(k)))
        out[len(filters) + i].copy_(part_grad.sum((0, 2, 3)))
    return out


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, filters, biases, ctx.dilation = inputs
    ctx.num_bands = len(filters)
    ctx.save_for_backward(x, *filters, *biases)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    x, *weights = ctx.saved_tensors
    filters, biases = weights[: ctx.num_bands], weights[ctx.num_bands :]
    for_input = None
    for_weights: list[Any] = [None] * len(weights)
    if ctx.needs_input_grad[0]:
        for_input = bands_input_grad(grad, filters, ctx.dilation, None)
    if any((*ctx.needs_input_grad[1], *ctx.needs_input_grad[2])):
        for_weights = bands_weight_grad(x, grad, filters, biases, ctx.dilation)
    return for_input, for_weights[: ctx.num_bands], for_weights[ctx.num_bands :], None


torch.library.register_autograd("ixt::depthwise_bands", _backward, setup_context=_save, lib=library)


def _register_autocast(device_type: str) -> None:
    """Under autocast cast the input alone: the kernel reads weights of any type.

    PyTorch's own rule for custom operators would cast the weights, too: six launches.
    """
    key = f"Autocast{torch._C._dispatch_key_for_device(device_type)}"
    keys = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))

    def cast_input(x: Tensor, *rest: Any) -> Tensor:
        half = torch.get_autocast_dtype(device_type)
        if x.dtype != torch.float64:  # which autocast leaves alone
            x = x.to(half)
        with torch._C._ExcludeDispatchKeyGuard(keys):
            return depthwise_bands(x, *rest)

    library.impl("depthwise_bands", cast_input, key)


for _device_type in ("cpu", "cuda"):
    _register_autocast(_device_type)
