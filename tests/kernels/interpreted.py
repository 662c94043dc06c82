"""Run the Triton kernels on a CPU against float64: `interpreted.py SEED CASE...`.

A process of its own: Triton reads TRITON_INTERPRET when a kernel's module is imported. A CASE is
`bands:SIZE`, `norm:SIZE`, `mlp:SIZE` or `products:SIZE`; see the functions of these names. Outputs
are full of NaN before. Prints, for each case, the largest error of each result relative to its
largest value, as JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import triton.language as tl
from torch import Tensor
from triton.runtime import interpreter

from ixt.kernels import bands_norm, fold, gemm, triton_fold, triton_gemm, triton_mlp, triton_stats
from ixt.kernels.bands import Bands
from ixt.kernels.triton_band_grads import weight_grads
from ixt.kernels.triton_bands import NormGrad, convolve, convolve_grad, num_tiles

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


def nan_like(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    return torch.full_like(x, float("nan"), dtype=dtype)


class Drawn:
    """Random inputs of one size: N,C,G,H,W,BANDS,dilation,dtype,order; bands as 3x3+1x11."""

    def __init__(self, size: str) -> None:
        *numbers, bands, dilation, dtype, order = size.split(",")
        n, c, g, h, w = map(int, numbers)
        self.dilation, self.dtype = int(dilation), getattr(torch, dtype)
        self.order = getattr(torch, order)
        sizes = [tuple(map(int, band.split("x"))) for band in bands.split("+")]
        self.size = (n, c, h, w)
        self.x, self.grad = self.image(), self.image()
        self.filters = tuple(torch.randn(g, 1, *size) for size in sizes)
        self.biases = tuple(torch.randn(g) for _ in sizes)

    def image(self, dtype: torch.dtype | None = None) -> Tensor:
        image = torch.randn(self.size).to(dtype or self.dtype)
        return image.contiguous(memory_format=self.order)


def bands(size: str) -> Pairs:
    """The bands, and all gradients, against autograd through PyTorch's convolutions."""
    drawn = Drawn(size)
    wide = [t.double().requires_grad_() for t in (drawn.x, *drawn.filters, *drawn.biases)]
    num = len(drawn.filters)
    groups = len(drawn.filters[0])
    passed = drawn.size[1] - num * groups
    parts = torch.split(wide[0], [passed, *(groups for _ in drawn.filters)], dim=1)
    outs = [
        F.conv2d(
            part, k, b, dilation=drawn.dilation, groups=groups,
            padding=tuple(drawn.dilation * (side // 2) for side in k.shape[2:]),  # type: ignore[arg-type]
        )
        for part, k, b in zip(parts[1:], wide[1 : 1 + num], wide[1 + num :], strict=True)
    ]  # fmt: skip
    expected = torch.cat([parts[0], *outs], dim=1)
    expected.backward(drawn.grad.double())

    out, x_grad = nan_like(drawn.x), nan_like(drawn.x)
    filter_grads, bias_grads = ([nan_like(w) for w in ws] for ws in (drawn.filters, drawn.biases))
    convolve(drawn.x, out, drawn.filters, drawn.biases, drawn.dilation)
    convolve_grad(drawn.grad, x_grad, drawn.filters, drawn.dilation)
    weight_grads(drawn.x, drawn.grad, tuple(filter_grads), tuple(bias_grads), drawn.dilation)
    pairs: Pairs = {"output": (out, expected), "input": (x_grad, wide[0].grad)}
    for i, found in enumerate((*filter_grads, *bias_grads)):
        pairs[f"weight {i}"] = (found, wide[1 + i].grad)
    return pairs


def norm(size: str) -> Pairs:
    """The bands with batch norm's statistics and gradient, against the same steps in float64."""
    drawn = Drawn(size)
    # The stream may be of another type than what lies between the sums.
    x, residual = drawn.image(torch.float32), drawn.image(torch.float32)
    inputs, channels, pixels = drawn.image(), drawn.size[1], drawn.size[2] * drawn.size[3]
    shift, sums = 30 + torch.randn(channels), torch.randn(2, channels)
    moments = torch.stack([torch.randn(channels), torch.rand(channels) + 0.5])
    weights = (drawn.filters, drawn.biases)
    wide = [tuple(t.double() for t in ts) for ts in weights]

    out, x_grad = nan_like(drawn.x), nan_like(x)
    tiles, tile_pixels = num_tiles(x, Bands.of(drawn.filters, drawn.dilation))
    stats = nan_like(torch.empty(drawn.size[0] * tiles, 2, channels))
    convolve(x, out, *weights, drawn.dilation, shift, stats)
    found = triton_stats.moments_of(stats, drawn.size[0], tile_pixels, pixels)
    step = NormGrad(inputs, sums, moments, EPS, 77.0)
    convolve_grad(drawn.grad, x_grad, drawn.filters, drawn.dilation, step, residual)
    grads = [tuple(nan_like(w) for w in ws) for ws in weights]
    weight_grads(x, drawn.grad, grads[0], grads[1], drawn.dilation, step)

    plain, _ = bands_norm._forward_plain(
        x.double(), *wide, drawn.dilation, shift.double(), True, torch.float64
    )
    rest = (sums.double(), moments.double(), EPS, 77.0, True)
    u = drawn.grad.double()
    right_grad = bands_norm._input_grad_plain(
        u, wide[0], drawn.dilation, residual.double(), inputs.double(), *rest
    )
    right_weights = bands_norm._weight_grad_plain(
        x.double(), u, *wide, drawn.dilation, inputs.double(), *rest
    )
    # Statistics are those of what was stored.
    variance, mean = torch.var_mean(out.double(), (0, 2, 3), correction=0)
    count = drawn.size[0] * pixels
    pairs = {"output": (out, plain), "moments": (found[:2], torch.stack([mean, variance]))}
    pairs["unbiased"] = (found[2] * (count - 1), variance * count)
    pairs["wide input"] = (x_grad, right_grad)
    for i, (grad, right) in enumerate(zip((*grads[0], *grads[1]), right_weights, strict=True)):
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
    weight, bias = torch.randn(channels), torch.randn(channels)

    active, d_hidden, total = nan_like(h), nan_like(h), nan_like(x)
    triton_mlp.scaled_gelu(h, active, scale)
    d_bias = triton_mlp.scaled_gelu_grad(h, dh, d_hidden, scale)
    triton_mlp.add(x, y, b2, total, scale)
    summed = triton_mlp.sum_rows(y, scale)
    terms = triton_fold.Norm(moments, weight, bias, EPS)
    folded = (nan_like(w1, dtype), nan_like(b1), nan_like(w2, dtype), nan_like(b2))
    triton_fold.fold(terms, w1, b1, w2, b2, gamma, folded)
    d_w1, d_w2 = torch.randn_like(w1), torch.randn_like(w2)
    normed = (nan_like(w1), nan_like(weight), nan_like(bias), nan_like(moments))
    triton_fold.unfold_norm(terms, d_w1, b1, folded[0], w1, normed)
    d_gamma = nan_like(b2 if gamma is not None else b2[:0])
    unscaled = (nan_like(w2), nan_like(b2), d_gamma)
    triton_fold.unfold_scale(d_w2, b2, w2, b2, gamma, unscaled)

    def wide(*tensors: Tensor | None) -> tuple[Any, ...]:
        return tuple(t if t is None else t.double() for t in tensors)

    right_grad, right_sum = fold._gelu_grad_plain(*wide(h, dh, scale))
    small1, offset, small2, offset2 = fold._fold_plain(
        *wide(w1, b1, w2, b2, gamma, moments, weight, bias), EPS, torch.float64
    )
    # The bias follows from the weights as they were rounded.
    offset = wide(b1)[0] + wide(w1)[0] @ wide(bias)[0] - wide(folded[0])[0] @ wide(moments[0])[0]
    right = fold._unfold_norm_plain(*wide(d_w1, b1, folded[0], w1, moments, weight, bias), EPS)
    pairs: Pairs = {
        "gelu": (active, fold._gelu_plain(*wide(h, scale))),
        "gelu gradient": (d_hidden, right_grad),
        "wide sum of it": (d_bias, right_sum),
        "wide total": (total, fold._add_plain(*wide(y, x, b2, scale), torch.float64)),
        "wide sum": (summed, fold._sum_plain(*wide(y, scale))),
        "w1'": (folded[0], small1),
        "wide b1'": (folded[1], offset),
        "w2'": (folded[2], small2),
        "wide b2'": (folded[3], offset2),
    }
    right_scale = fold._unfold_scale_plain(*wide(d_w2, b2, w2, b2, gamma))
    for i, (found, expected) in enumerate(
        zip((*normed, *unscaled), (*right, *right_scale), strict=True)
    ):
        if found.numel():
            pairs[f"wide unfolded {i}"] = (found, expected)
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

    found_h, found_g, d_h, total = nan_like(h), nan_like(h), nan_like(h), nan_like(stream)
    triton_gemm.product_gelu(x, w1, b1, found_h, found_g, scale, tile)
    d_bias = triton_gemm.product_gelu_grad(grad, w2, h, d_h, scale, tile)
    triton_gemm.product_add(g, w2, stream, b2, total, scale, tile)

    def wide(*tensors: Tensor | None) -> tuple[Any, ...]:
        return tuple(t if t is None else t.double() for t in tensors)

    right_h, _ = gemm._gelu_plain(*wide(x, w1, b1, scale), tile)
    right_grad, right_sum = gemm._gelu_grad_plain(*wide(grad, w2, h, scale), tile)
    right = gemm._add_plain(*wide(g, w2, stream, b2, scale), torch.float64, tile)
    return {
        "hidden": (found_h, right_h),
        "gelu": (found_g, fold._gelu_plain(*wide(found_h, scale))),
        "gelu gradient": (d_h, right_grad),
        "wide sum of it": (d_bias, right_sum),
        "wide total": (total, right),
    }


def errors(case: str) -> dict[str, float]:
    """Largest relative error of each result; NaN where nothing was written."""
    kind, size = case.split(":")
    pairs = {"bands": bands, "norm": norm, "mlp": mlp, "products": products}[kind](size)
    return {
        name: float((found.double() - right.detach()).abs().max() / right.detach().abs().max())
        for name, (found, right) in pairs.items()
    }


if __name__ == "__main__":
    torch.manual_seed(int(sys.argv[1]))
    print(json.dumps([errors(case) for case in sys.argv[2:]]))
