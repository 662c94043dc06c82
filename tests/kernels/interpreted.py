"""Run the Triton kernels on a CPU against float64: `interpreted.py SEED CASE...`.

A process of its own: Triton reads TRITON_INTERPRET when a kernel's module is imported. A CASE is
`bands:SIZE`, `norm:SIZE`, `mlp:SIZE`, `products:SIZE` or `whole:SIZE`; see the functions of these
names. New memory is full of NaN. Prints, for each case, the largest error of each result relative
to its largest value, as JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from torch.utils._pytree import tree_map_only
from triton.runtime import interpreter

from ixt.kernels import bands as plain_bands
from ixt.kernels import fold, gemm
from ixt.kernels.triton_code import band_grads as triton_band_grads
from ixt.kernels.triton_code import bands as triton_bands
from ixt.kernels.triton_code import fold as triton_fold
from ixt.kernels.triton_code import gemm as triton_gemm
from ixt.kernels.triton_code import mlp as triton_mlp
from ixt.kernels.triton_code import stats as triton_stats
from ixt.kernels.triton_code import whole as triton_whole

torch.use_deterministic_algorithms(True)  # fills empty tensors with NaN
EPS = 1e-3
plain_dot = interpreter.InterpreterBuilder.create_dot


def dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
    """The interpreter's product; for bf16 that would be one of the bits taken for integers."""
    if a.dtype == tl.bfloat16:
        a, b = (
            interpreter.TensorHandle((t.data.astype(np.uint32) << 16).view(np.float32), tl.float32)
            for t in (a, b)
        )
    return plain_dot(self, a, b, *rest)


interpreter.InterpreterBuilder.create_dot = dot
Pairs = dict[str, tuple[Tensor, Any]]


def wide(*values: Any) -> tuple[Any, ...]:
    """Arguments with all tensors in float64."""
    return tuple(tree_map_only(Tensor, Tensor.double, value) for value in values)


class Drawn:
    """Random inputs of one size: N,C,G,H,W,BANDS,dilation,dtype,order; bands as 3x3+1x11."""

    def __init__(self, size: str, taps_first: bool = False) -> None:
        *numbers, bands, dilation, dtype, order = size.split(",")
        n, c, g, h, w = map(int, numbers)
        self.dilation, self.dtype = int(dilation), getattr(torch, dtype)
        self.order = getattr(torch, order)
        sizes = [tuple(map(int, band.split("x"))) for band in bands.split("+")]
        self.size = (n, c, h, w)
        # Its sum, a bias's gradient, is far from 0: an error is measured by it.
        self.x, self.grad = self.image(), self.image() + 1
        # As `lay_out_filters` leaves them, or as they are made.
        self.filters = tuple(torch.randn(*size, g).permute(2, 0, 1)[:, None] for size in sizes)
        if not taps_first:
            self.filters = tuple(f.contiguous() for f in self.filters)
        self.biases = tuple(torch.randn(g) for _ in sizes)

    def image(self, dtype: torch.dtype | None = None) -> Tensor:
        image = torch.randn(self.size).to(dtype or self.dtype)
        return image.contiguous(memory_format=self.order)


def bands(size: str) -> Pairs:
    """The bands, and all gradients, against autograd through PyTorch's convolutions."""
    drawn = Drawn(size)
    leaves = [t.double().requires_grad_() for t in (drawn.x, *drawn.filters, *drawn.biases)]
    num = len(drawn.filters)
    groups = len(drawn.filters[0])
    passed = drawn.size[1] - num * groups
    parts = torch.split(leaves[0], [passed, *(groups for _ in drawn.filters)], dim=1)
    outs = [
        F.conv2d(
            part, k, b, dilation=drawn.dilation, groups=groups,
            padding=tuple(drawn.dilation * (side // 2) for side in k.shape[2:]),
        )
        for part, k, b in zip(parts[1:], leaves[1 : 1 + num], leaves[1 + num :], strict=True)
    ]  # fmt: skip
    expected = torch.cat([parts[0], *outs], dim=1)
    expected.backward(drawn.grad.double())

    weights = (drawn.filters, drawn.biases, drawn.dilation)
    out = triton_bands.depthwise_bands(drawn.x, *weights)
    x_grad = triton_bands.bands_input_grad(drawn.grad, drawn.filters, drawn.dilation, None)
    weight_grads = triton_band_grads.bands_weight_grad(drawn.x, drawn.grad, *weights)
    pairs: Pairs = {"output": (out, expected), "input": (x_grad, leaves[0].grad)}
    for i, (found, leaf) in enumerate(zip(weight_grads, leaves[1:], strict=True)):
        pairs[f"weight {i}"] = (found, leaf.grad)
    return pairs


def norm(size: str) -> Pairs:
    """The bands in a block that folds batch norm, against the same steps in float64."""
    drawn = Drawn(size, taps_first=True)
    # The stream may be of another type than what lies between the sums.
    x, residual = drawn.image(torch.float32), drawn.image(torch.float32)
    channels, pixels = drawn.size[1], drawn.size[2] * drawn.size[3]
    shift = 30 + torch.randn(channels)
    weights = (drawn.filters, drawn.biases, drawn.dilation)

    forward = (x, *weights, shift, True)
    out, found = triton_bands.bands_moments(*forward, drawn.dtype)
    plain, _ = plain_bands.bands_moments(*wide(*forward, torch.float64))
    for_input = (drawn.grad, drawn.filters, drawn.dilation, residual)
    for_weights = (x, drawn.grad, *weights)
    # Statistics are those of what was stored.
    variance, mean = torch.var_mean(out.double(), (0, 2, 3), correction=0)
    count = drawn.size[0] * pixels
    pairs = {"output": (out, plain), "moments": (found[:2], torch.stack([mean, variance]))}
    pairs["unbiased"] = (found[2] * (count - 1), variance * count)
    running = (torch.randn(channels), torch.rand(channels))
    (mean, variance), updates = wide(*running), torch.tensor([41, 41])
    triton_stats.update_averages(found, *running, updates[0], 0.1)
    fold.update_averages(found.double(), mean, variance, updates[1], 0.1)
    assert updates.tolist() == [42, 42]
    pairs["wide averages"] = (torch.stack(running), torch.stack([mean, variance]))
    pairs["wide input"] = (
        triton_bands.bands_input_grad(*for_input),
        plain_bands.bands_input_grad(*wide(*for_input)),
    )
    grads = triton_band_grads.bands_weight_grad(*for_weights)
    assert all(
        grad.stride() == filters.stride()
        for grad, filters in zip(grads, drawn.filters, strict=False)
    )
    right_weights = plain_bands.bands_weight_grad(*wide(*for_weights))
    for i, (grad, right) in enumerate(zip(grads, right_weights, strict=True)):
        pairs[f"weight {i}"] = (grad, right)
    return pairs


def mlp(size: str) -> Pairs:
    """What lies around the matrix products, against the same in float64.

    Size: images,pixels,channels,hidden,scaled,dtype.
    """
    *numbers, name = size.split(",")
    images, pixels, channels, hidden, scaled = map(int, numbers)
    dtype, rows = getattr(torch, name), images * pixels
    h, dh = (torch.randn(rows, hidden).to(dtype) for _ in range(2))
    x, y = torch.randn(rows, channels), torch.randn(rows, channels).to(dtype)
    scale = torch.randn(images) if scaled else None
    w1, b1 = torch.randn(hidden, channels), torch.randn(hidden)
    w2, b2 = torch.randn(channels, hidden), torch.randn(channels)
    gamma = torch.randn(channels) if scaled else None
    moments = torch.stack([torch.randn(channels), torch.rand(channels) + 0.1])
    bias = torch.randn(channels)
    terms = (moments, torch.randn(channels), bias, EPS)

    active = triton_mlp.scaled_gelu(h, scale)
    d_hidden, d_bias = triton_mlp.scaled_gelu_grad(h, dh, scale)
    total = triton_mlp.scaled_add(y, x, b2, scale, torch.float32)
    summed = triton_mlp.scaled_sum(y, scale)
    weights = (w1, b1, w2, b2, gamma, 1.25)
    first, offset1, second, offset2 = triton_fold.fold_weights(*weights, *terms, dtype)
    unfolding = (torch.randn_like(w1), b1, torch.randn_like(w2), b2, first, w1, w2, b2, gamma, 1.25)
    for_norm = (y, torch.randn_like(x).to(dtype), torch.randn(2, channels), moments, EPS)

    right_grad, right_sum = fold.scaled_gelu_grad(*wide(h, dh, scale))
    right = fold.fold_weights(*wide(*weights, *terms, torch.float64))
    # The bias follows from the weights as they were rounded.
    wide_w1, wide_first, wide_bias, wide_moments = wide(w1, first, bias, moments)
    right_offset = b1.double() + wide_w1 @ wide_bias - wide_first @ wide_moments[0]
    wide_offset, programs = torch.empty_like(b1), triton.cdiv(hidden, 16)
    triton_fold.fold_kernel[(programs + triton.cdiv(channels, 16),)](
        w1, b1, w2, b2, b2 if gamma is None else gamma, 1.25, *terms,
        torch.empty_like(first), wide_offset, torch.empty_like(second), torch.empty_like(b2),
        hidden, channels, programs, SCALED=gamma is not None, ROWS=16, COLUMNS=64,
    )  # fmt: skip
    pairs: Pairs = {
        "gelu": (active, fold.scaled_gelu(*wide(h, scale))),
        "gelu gradient": (d_hidden, right_grad),
        "wide sum of it": (d_bias, right_sum),
        "wide total": (total, fold.scaled_add(*wide(y, x, b2, scale, torch.float64))),
        "wide sum": (summed, fold.scaled_sum(*wide(y, scale))),
        "norm": (triton_mlp.norm_grad(*for_norm), fold.norm_grad(*wide(*for_norm))),
        "w1'": (first, right[0]),
        "b1'": (offset1, right_offset),
        "wide b1'": (wide_offset, right_offset),
        "w2'": (second, right[2]),
        "wide b2'": (offset2, right[3]),
    }
    unfolded = triton_fold.unfold_weights(*unfolding, *terms)
    expected = fold.unfold_weights(*wide(*unfolding, *terms))
    for i, pair in enumerate(zip(unfolded, expected, strict=True)):
        if pair[0].numel():
            pairs[f"wide unfolded {i}"] = pair
    return pairs


def products(size: str) -> Pairs:
    """The matrix products that finish their results, against the same in float64.

    Size: images,pixels,channels,hidden,scaled,tile,dtype.
    """
    *numbers, tile, name = size.split(",")
    images, pixels, channels, hidden, scaled = map(int, numbers)
    dtype, rows = getattr(torch, name), images * pixels

    def draw(*size: int) -> Tensor:
        return torch.randn(size).to(dtype)

    scale = torch.randn(images) if scaled else None
    x, stream, grad = draw(rows, channels), torch.randn(rows, channels), draw(rows, channels)
    w1, b1 = draw(hidden, channels) / channels**0.5, draw(hidden)
    w2, b2 = draw(channels, hidden) / hidden**0.5, torch.randn(channels)
    h, g = draw(rows, hidden), draw(rows, hidden)
    h = h.abs() if h.numel() == 1 else h  # alone near the root of GELU's slope: no digit is left

    first, back = (x, w1, b1, scale, tile), (grad, w2, h, scale, tile)
    last = (g, w2, stream, b2, scale)
    moments = torch.stack([torch.randn(channels), torch.rand(channels) + 0.5])
    norm = (h, w1 / 4, x, torch.randn(2, channels), moments, EPS, tile)
    found_h, found_g = triton_gemm.product_gelu(*first)
    d_h, sums = triton_gemm.product_gelu_grad(*back)
    total = triton_gemm.product_add(*last, torch.float32, tile)
    right_grad, right_sums = gemm.product_gelu_grad(*wide(*back))
    return {
        "hidden": (found_h, gemm.product_gelu(*wide(*first))[0]),
        "gelu": (found_g, fold.scaled_gelu(*wide(found_h, scale))),
        "gelu gradient": (d_h, right_grad),
        "wide sum of it": (sums[:hidden], right_sums[:hidden]),
        "wide sum": (sums[hidden:], right_sums[hidden:]),
        "wide total": (total, gemm.product_add(*wide(*last, torch.float64, tile))),
        "norm": (triton_gemm.product_norm_grad(*norm), gemm.product_norm_grad(*wide(*norm))),
    }


def whole(size: str) -> Pairs:
    """A whole MLP and its gradients, against the same in float64.

    Size: images,pixels,channels,hidden,scaled,dtype.
    """
    *numbers, name = size.split(",")
    images, pixels, channels, hidden, scaled = map(int, numbers)
    dtype, rows = getattr(torch, name), images * pixels

    def draw(*size: int) -> Tensor:
        return torch.randn(size).to(dtype)

    scale = torch.randn(images) if scaled else None
    t, stream, grad = draw(rows, channels), torch.randn(rows, channels), draw(rows, channels)
    w1, b1 = draw(hidden, channels) / channels**0.5, draw(hidden)
    b1 = b1 + 5 if hidden == 1 else b1  # as in `products`
    w2, b2 = draw(channels, hidden) / hidden**0.5, torch.randn(channels)
    forward = (t, w1, b1, w2, b2, stream, scale)
    out = triton_whole.whole_mlp(*forward, torch.float32)
    triton_whole._is_hopper = lambda t: bool(scaled)  # whose blocks are others
    back = (grad, t, w1, b1, w2, scale)
    moments = torch.stack([torch.randn(channels), torch.rand(channels) + 0.5])
    plain_end, norm_end = (None, None, 0.0), (torch.randn(2, channels), moments, EPS)
    found, expected = (
        (
            *kernels.whole_weight_grad(*operands),
            kernels.whole_input_grad(*operands, *ends[0]),
            kernels.whole_input_grad(*operands, *ends[1]),
        )
        for kernels, operands, ends in (
            (triton_whole, back, (plain_end, norm_end)),
            (gemm, wide(*back), (plain_end, wide(*norm_end))),
        )
    )
    names = ("w1", "b1", "w2", "wide b2", "input", "input through a norm")
    return {
        "output": (out, gemm.whole_mlp(*wide(*forward, torch.float64))),
        **{name: (one, right) for name, one, right in zip(names, found, expected, strict=True)},
    }


def errors(case: str) -> dict[str, float]:
    """Largest relative error of each result; NaN where nothing was written."""
    kind, size = case.split(":")
    kinds = {"bands": bands, "norm": norm, "mlp": mlp, "products": products, "whole": whole}
    pairs = kinds[kind](size)
    return {
        name: float((found.double() - right.detach()).abs().max() / right.detach().abs().max())
        for name, (found, right) in pairs.items()
    }


if __name__ == "__main__":
    torch.manual_seed(int(sys.argv[1]))
    print(json.dumps([errors(case) for case in sys.argv[2:]]))
