"""The Inception mixer as PyTorch operators, with gradients, autocast and torch.compile.

    from ixt.kernels.ops import inception_mix

    y = inception_mix(x, square, square_bias, row, row_bias, column, column_bias, 1)

On a CUDA device it is one Triton launch (`inception_triton.py`), and its gradients are three: one
for the input, two for all filters and biases. Elsewhere, and in float64, the same operators are
PyTorch's convolutions. Weights need no cast: autocast changes the type of the input only, sums are
kept in fp32, and gradients come out in the type of what they belong to.
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_input, conv2d_weight

# Torch reads a schema from these annotations, so they must be types when it looks.
Six = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def memory_format(x: Tensor) -> torch.memory_format:
    """The order in which the operators keep a (N, C, H, W) tensor: NHWC where channels are dense.

    A tensor that is contiguous in both orders, or in none, counts as NCHW unless its channels are
    neighbours in memory.
    """
    channels_dense = x.stride(1) == 1 and x.shape[1] > 1 and not x.is_contiguous()
    return torch.channels_last if channels_dense else torch.contiguous_format


def _like(x: Tensor) -> Tensor:
    """An empty tensor of the shape and type of x, in the order that the operators keep."""
    return torch.empty_like(x, memory_format=memory_format(x))


def _in_triton(x: Tensor) -> bool:
    return x.is_cuda and x.dtype in (torch.float32, torch.float16, torch.bfloat16)


def _split(x: Tensor, groups: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Channels that pass, and those of the square, the row and the column branch."""
    passed, square, row, column = torch.split(
        x, [x.shape[1] - 3 * groups, groups, groups, groups], dim=1
    )
    return passed, square, row, column


def _paddings(square: Tensor, row: Tensor, dilation: int) -> list[tuple[int, int]]:
    side, band = dilation * (square.shape[-1] // 2), dilation * (row.shape[-1] // 2)
    return [(side, side), (0, band), (band, 0)]


def _check(x: Tensor, square: Tensor, row: Tensor, column: Tensor) -> None:
    groups, side, band = square.shape[0], square.shape[-1], row.shape[-1]
    shapes = ((groups, 1, side, side), (groups, 1, 1, band), (groups, 1, band, 1))
    found = tuple(tuple(filters.shape) for filters in (square, row, column))
    if found != shapes or not side % 2 or not band % 2:
        raise ValueError(f"filters of shapes {found}; give {shapes} with odd sides")
    if x.ndim != 4 or x.shape[1] < 3 * groups:
        raise ValueError(f"input of shape {tuple(x.shape)}; give (N, C, H, W), C >= {3 * groups}")


@torch.library.custom_op("ixt::inception_mix", mutates_args=())
def inception_mix(
    x: Tensor,
    square: Tensor,
    square_bias: Tensor,
    row: Tensor,
    row_bias: Tensor,
    column: Tensor,
    column_bias: Tensor,
    dilation: int,
) -> Tensor:
    """Convolve the last 3G of C channels depthwise in three branches; pass the others through.

    Args:
        x: (N, C, H, W), any floating type, NCHW or NHWC in memory.
        square: (G, 1, S, S), for the first G of the convolved channels; S is odd.
        square_bias: (G,).
        row: (G, 1, 1, B), for the next G; B is odd.
        row_bias: (G,).
        column: (G, 1, B, 1), for the last G.
        column_bias: (G,).
        dilation: distance of neighbouring taps, in pixels.

    Returns:
        Shape, type and memory order of x; zeros lie around the image.

    Raises:
        ValueError: the shapes do not fit each other.

    Source: Yu et al. 2024, "InceptionNeXt: When Inception Meets ConvNeXt", algorithm 1.
    """
    _check(x, square, row, column)
    out = _like(x)
    if _in_triton(x):
        from ixt.kernels import inception_triton

        weights = inception_triton.Weights(
            *(weight.contiguous() for weight in (square, row, column)),
            *(bias.contiguous() for bias in (square_bias, row_bias, column_bias)),
        )
        inception_triton.mix(_ordered(x), out, weights, dilation)
        return out
    groups = square.shape[0]
    parts = _split(x, groups)
    pads = _paddings(square, row, dilation)
    filters = ((square, square_bias), (row, row_bias), (column, column_bias))
    branches = [
        F.conv2d(part, k.to(x.dtype), b.to(x.dtype), 1, pad, dilation, groups)
        for part, (k, b), pad in zip(parts[1:], filters, pads, strict=True)
    ]
    return out.copy_(torch.cat([parts[0], *branches], dim=1))


@torch.library.custom_op("ixt::inception_mix_input_grad", mutates_args=())
def inception_mix_input_grad(
    grad: Tensor, square: Tensor, row: Tensor, column: Tensor, dilation: int
) -> Tensor:
    """Gradient of `inception_mix`'s input, from that of its output; shape and order of `grad`."""
    out = _like(grad)
    if _in_triton(grad):
        from ixt.kernels import inception_triton

        filters = (weight.contiguous() for weight in (square, row, column))
        weights = inception_triton.Weights(*filters)
        inception_triton.mix(_ordered(grad), out, weights, dilation, backward=True)
        return out
    groups = square.shape[0]
    parts = _split(grad, groups)
    branches = [
        conv2d_input(
            part.shape, k.to(grad.dtype), part, padding=pad, dilation=dilation, groups=groups
        )
        for part, k, pad in zip(
            parts[1:], (square, row, column), _paddings(square, row, dilation), strict=True
        )
    ]
    return out.copy_(torch.cat([parts[0], *branches], dim=1))


@torch.library.custom_op("ixt::inception_mix_weight_grad", mutates_args=())
def inception_mix_weight_grad(
    x: Tensor,
    grad: Tensor,
    square: Tensor,
    square_bias: Tensor,
    row: Tensor,
    row_bias: Tensor,
    column: Tensor,
    column_bias: Tensor,
    dilation: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of `inception_mix`'s filters and biases, in the order of its arguments.

    The weights give shapes and types only; biases are sums over pixels.
    """
    weights = (square, square_bias, row, row_bias, column, column_bias)
    out: Six = _dense_like(*weights)
    if _in_triton(x) and _in_triton(grad):
        from ixt.kernels import inception_triton

        grads = inception_triton.Weights(out[0], out[2], out[4], out[1], out[3], out[5])
        order = memory_format(x)
        grad = grad.contiguous(memory_format=order)
        inception_triton.weight_grads(_ordered(x), grad, grads, dilation)
        return out
    groups = square.shape[0]
    pads = _paddings(square, row, dilation)
    parts = zip(_split(x, groups)[1:], _split(grad, groups)[1:], pads, strict=True)
    for i, (part, part_grad, pad) in enumerate(parts):
        filters = conv2d_weight(
            part, weights[2 * i].shape, part_grad.to(part.dtype), 1, pad, dilation, groups
        )
        out[2 * i].copy_(filters)
        out[2 * i + 1].copy_(part_grad.sum((0, 2, 3)))
    return out


def _ordered(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=memory_format(x))


def _dense_like(a: Tensor, b: Tensor, c: Tensor, d: Tensor, e: Tensor, f: Tensor) -> Six:
    """Empty contiguous tensors of the shapes and types of six."""

    def dense(t: Tensor) -> Tensor:
        return torch.empty_like(t, memory_format=torch.contiguous_format)

    return dense(a), dense(b), dense(c), dense(d), dense(e), dense(f)


@inception_mix.register_fake
def _(
    x: Tensor,
    square: Tensor,
    square_bias: Tensor,
    row: Tensor,
    row_bias: Tensor,
    column: Tensor,
    column_bias: Tensor,
    dilation: int,
) -> Tensor:
    _check(x, square, row, column)
    return _like(x)


@inception_mix_input_grad.register_fake
def _(grad: Tensor, square: Tensor, row: Tensor, column: Tensor, dilation: int) -> Tensor:
    return _like(grad)


@inception_mix_weight_grad.register_fake
def _(x: Tensor, grad: Tensor, *weights_and_dilation: Any) -> Six:
    return _dense_like(*weights_and_dilation[:6])


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.dilation = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    x, *weights = ctx.saved_tensors
    for_input = for_weights = None
    if ctx.needs_input_grad[0]:
        filters = (weights[0], weights[2], weights[4])
        for_input = inception_mix_input_grad(grad, *filters, ctx.dilation)
    if any(ctx.needs_input_grad[1:7]):
        for_weights = inception_mix_weight_grad(x, grad, *weights, ctx.dilation)
    return (for_input, *(for_weights or (None,) * 6), None)


inception_mix.register_autograd(_backward, setup_context=_save)


def _register_autocast(device_type: str) -> None:
    """Under autocast cast the input alone: the kernel reads weights of any type.

    PyTorch's own rule for custom operators would cast the six weights, too: six launches.
    """
    key = f"Autocast{torch._C._dispatch_key_for_device(device_type)}"
    keys = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))

    def cast_input(x: Tensor, *rest: Any) -> Tensor:
        half = torch.get_autocast_dtype(device_type)
        if x.dtype != torch.float64:  # which autocast leaves alone
            x = x.to(half)
        with torch._C._ExcludeDispatchKeyGuard(keys):
            out: Tensor = inception_mix(x, *rest)
        return out

    torch.library.impl("ixt::inception_mix", key)(cast_input)


for _device_type in ("cpu", "cuda"):
    _register_autocast(_device_type)
