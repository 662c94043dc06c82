"""Depthwise bands as PyTorch operators, with gradients, autocast and torch.compile.

    from ixt.kernels.bands import depthwise_bands

    y = depthwise_bands(x, [square, row, column], [square_bias, row_bias, column_bias], 1)

Three bands are InceptionNeXt's mixer; one over all channels is ConvNeXt's depthwise convolution. On
a CUDA device it is one Triton launch (`triton_bands.py`), and its gradients are three: one for the
input, two for all filters and biases. Elsewhere, and in float64, the same operators are PyTorch's
convolutions. Weights need no cast: autocast changes the type of the input only, sums are kept in
fp32, and gradients come out in the type of what they belong to.
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_input, conv2d_weight


@dataclass(frozen=True)
class Bands:
    """Depthwise filters over the last channels of an image, group after group.

    The first C - len(sizes) x G channels pass.
    """

    groups: int
    """G, the channels of each band."""
    sizes: tuple[tuple[int, int], ...]
    """Height and width of each band's filters, both odd."""
    dilation: int = 1
    """Distance of neighbouring taps, in pixels."""

    @classmethod
    def of(cls, filters: Sequence[Tensor], dilation: int) -> Bands:
        """The bands of filters (G, 1, height, width)."""
        sizes = tuple((f.shape[2], f.shape[3]) for f in filters)
        return cls(filters[0].shape[0], sizes, dilation)


def memory_format(x: Tensor) -> torch.memory_format:
    """The order in which the operators keep a (N, C, H, W) tensor: NHWC where channels are dense.

    A tensor that is contiguous in both orders, or in none, counts as NCHW unless its channels are
    neighbours in memory.
    """
    channels_dense = x.stride(1) == 1 and x.shape[1] > 1 and not x.is_contiguous()
    return torch.channels_last if channels_dense else torch.contiguous_format


def like(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """An empty tensor of the shape of x, in the order that the operators keep."""
    return torch.empty_like(x, dtype=dtype, memory_format=memory_format(x))


def ordered(x: Tensor) -> Tensor:
    """The tensor, copied if it is not contiguous in the order that the operators keep."""
    return x.contiguous(memory_format=memory_format(x))


def in_triton(x: Tensor) -> bool:
    """Whether kernels compute with this tensor; PyTorch does otherwise."""
    return x.is_cuda and x.dtype in (torch.float32, torch.float16, torch.bfloat16)


def dense(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The tensors, copied where they are not contiguous."""
    return tuple(tensor.contiguous() for tensor in tensors)


def empty(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Empty contiguous tensors of the same shapes and types."""
    return [torch.empty_like(t, memory_format=torch.contiguous_format) for t in tensors]


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


@torch.library.custom_op("ixt::depthwise_bands", mutates_args=())
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
    out = like(x)
    if in_triton(x):
        from ixt.kernels import triton_bands

        triton_bands.convolve(ordered(x), out, dense(filters), dense(biases), dilation)
        return out
    passed, *parts = _parts(x, filters)
    bands = [
        F.conv2d(part, k.to(x.dtype), b.to(x.dtype), 1, pad, dilation, len(k))
        for part, k, b, pad in zip(parts, filters, biases, _pads(filters, dilation), strict=True)
    ]
    return out.copy_(torch.cat([passed, *bands], dim=1))


@torch.library.custom_op("ixt::depthwise_bands_input_grad", mutates_args=())
def bands_input_grad(grad: Tensor, filters: Sequence[Tensor], dilation: int) -> Tensor:
    """Gradient of `depthwise_bands`'s input, from its output's; shape and order of `grad`."""
    out = like(grad)
    if in_triton(grad):
        from ixt.kernels import triton_bands

        triton_bands.convolve_grad(ordered(grad), out, dense(filters), dilation)
        return out
    passed, *parts = _parts(grad, filters)
    bands = [
        conv2d_input(
            part.shape, k.to(grad.dtype), part, padding=pad, dilation=dilation, groups=len(k)
        )
        for part, k, pad in zip(parts, filters, _pads(filters, dilation), strict=True)
    ]
    return out.copy_(torch.cat([passed, *bands], dim=1))


@torch.library.custom_op("ixt::depthwise_bands_weight_grad", mutates_args=())
def bands_weight_grad(
    x: Tensor,
    grad: Tensor,
    filters: Sequence[Tensor],
    biases: Sequence[Tensor],
    dilation: int,
) -> list[Tensor]:
    """Gradients of `depthwise_bands`'s filters, then of its biases.

    The weights give shapes and types only; biases are sums over pixels.
    """
    out = empty([*filters, *biases])
    filter_grads, bias_grads = out[: len(filters)], out[len(filters) :]
    if in_triton(x) and in_triton(grad):
        from ixt.kernels import triton_band_grads

        grad = grad.contiguous(memory_format=memory_format(x))
        triton_band_grads.weight_grads(
            ordered(x), grad, tuple(filter_grads), tuple(bias_grads), dilation
        )
        return out
    parts = zip(_parts(x, filters)[1:], _parts(grad, filters)[1:], strict=True)
    for i, ((part, part_grad), pad) in enumerate(zip(parts, _pads(filters, dilation), strict=True)):
        k = filters[i]
        like_part = part_grad.to(part.dtype)
        filter_grads[i].copy_(conv2d_weight(part, k.shape, like_part, 1, pad, dilation, len(k)))
        bias_grads[i].copy_(part_grad.sum((0, 2, 3)))
    return out


@depthwise_bands.register_fake
def _(x: Tensor, filters: Sequence[Tensor], biases: Sequence[Tensor], dilation: int) -> Tensor:
    _check(x, filters)
    return like(x)


@bands_input_grad.register_fake
def _(grad: Tensor, filters: Sequence[Tensor], dilation: int) -> Tensor:
    return like(grad)


@bands_weight_grad.register_fake
def _(
    x: Tensor, grad: Tensor, filters: Sequence[Tensor], biases: Sequence[Tensor], dilation: int
) -> list[Tensor]:
    return empty([*filters, *biases])


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
        for_input = bands_input_grad(grad, filters, ctx.dilation)
    if any((*ctx.needs_input_grad[1], *ctx.needs_input_grad[2])):
        for_weights = bands_weight_grad(x, grad, filters, biases, ctx.dilation)
    return for_input, for_weights[: ctx.num_bands], for_weights[ctx.num_bands :], None


depthwise_bands.register_autograd(_backward, setup_context=_save)


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
            out: Tensor = depthwise_bands(x, *rest)
        return out

    torch.library.impl("ixt::depthwise_bands", key)(cast_input)


for _device_type in ("cpu", "cuda"):
    _register_autocast(_device_type)
