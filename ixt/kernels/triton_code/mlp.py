"""What lies between the matrix products of a block's MLP, in Triton, in one pass each.

Drop-path comes as one number per image, so it needs no pass of its own. Sums over pixels are in
fp32 beside the pass that reads them, in an order that does not depend on the device.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-untyped-call"
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

# As many programs as keep a large device busy; see `band_grads.py`.
_PROGRAMS = 1056
_BLOCK_R, _BLOCK_K = 16, 128


@triton.jit
def image_scale(Scale, r, rows, pixels, SCALED: tl.constexpr, BLOCK_R: tl.constexpr):
    """What each row's image is multiplied by."""
    scale = tl.full((BLOCK_R,), 1.0, tl.float32)
    if SCALED:
        scale = tl.load(Scale + r // pixels, mask=r < rows, other=0.0)
    return scale


@triton.jit
def _tile(rows, width, pixels, Scale, first_row, block, SCALED: tl.constexpr,
          BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    """Where a tile of a (rows, width) matrix lies, what of it exists, its columns, its scale."""
    r = first_row + tl.arange(0, BLOCK_R)
    k = block * BLOCK_K + tl.arange(0, BLOCK_K)
    at = (r.to(tl.int64) * width)[:, None] + k[None, :]
    inside = (r < rows)[:, None] & (k < width)[None, :]
    return at, inside, k, image_scale(Scale, r, rows, pixels, SCALED, BLOCK_R)


@triton.jit
def _normal(h):
    """The normal distribution's share below h, within 6e-7, and exp(-h^2 / 2).

    Source: Abramowitz and Stegun 1964, formula 7.1.26. The error function of CUDA's library has
    three times the instructions, which are what the time of a whole MLP depends on.
    """
    # One instruction each on a GPU, unlike a quotient and an exponential to another base.
    fall = tl.exp2(-0.7213475204444817 * h * h)
    root = tl.rsqrt(1.0 + 0.23164189 * tl.abs(h))
    t = root * root
    tail = t * (0.127414796 + t * (-0.142248368 + t * (0.7107068705 + t * (
        -0.7265760135 + t * 0.5307027145)))) * fall  # fmt: skip
    return tl.where(h < 0, tail, 1.0 - tail), fall


@triton.jit
def gelu(h):
    """GELU, exact, of fp32."""
    below, _ = _normal(h)
    return h * below


@triton.jit
def gelu_slope(h):
    """Its derivative."""
    below, fall = _normal(h)
    return below + h * 0.3989422804014327 * fall


@triton.jit
def norm_terms(sums, moments, c, real, eps, count, C: tl.constexpr):
    """What batch norm's backward adds to a gradient of its normalised input: a + b x input.

    Pointers are `fold.unfold_weights`' sums (2, C) and moments (2 or 3, C): mean, variance.
    """
    mean = tl.load(moments + c, mask=real, other=0.0)
    inverse = 1.0 / (tl.load(moments + C + c, mask=real, other=0.0) + eps)
    b = -tl.load(sums + C + c, mask=real, other=0.0) * inverse / count
    a = -tl.load(sums + c, mask=real, other=0.0) / count - b * mean
    return a, b


@triton.jit
def gelu_kernel(
    Hidden, Out, Scale, rows, width, pixels,
    SCALED: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Out = scale of the row's image x GELU(Hidden), exact."""
    at, inside, _, scale = _tile(
        rows, width, pixels, Scale, tl.program_id(0) * BLOCK_R, tl.program_id(1),
        SCALED, BLOCK_R, BLOCK_K,
    )  # fmt: skip
    h = tl.load(Hidden + at, mask=inside, other=0.0).to(tl.float32)
    g = gelu(h) * scale[:, None]
    tl.store(Out + at, g.to(Out.dtype.element_ty), mask=inside)


@triton.jit
def gelu_grad_kernel(
    Hidden, Grad, Out, Partial, Scale, rows, width, pixels, chunks,
    SCALED: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Out = scale x GELU'(Hidden) x Grad; a chunk's sums of Out over rows: (chunks, width)."""
    chunk = tl.program_id(0)
    total = tl.zeros((BLOCK_R, BLOCK_K), tl.float32)
    for first in range(chunk * BLOCK_R, rows, chunks * BLOCK_R):
        at, inside, _, scale = _tile(
            rows, width, pixels, Scale, first, tl.program_id(1), SCALED, BLOCK_R, BLOCK_K
        )
        h = tl.load(Hidden + at, mask=inside, other=0.0).to(tl.float32)
        grad = tl.load(Grad + at, mask=inside, other=0.0).to(tl.float32)
        out = gelu_slope(h) * grad * scale[:, None]
        tl.store(Out + at, out.to(Out.dtype.element_ty), mask=inside)
        total += out
    k = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    tl.store(Partial + chunk * width + k, tl.sum(total, 0), mask=k < width)


@triton.jit
def add_kernel(
    X, Y, Bias, Out, Scale, rows, width, pixels,
    SCALED: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Out = X + Y + scale of the row's image x Bias."""
    at, inside, k, scale = _tile(
        rows, width, pixels, Scale, tl.program_id(0) * BLOCK_R, tl.program_id(1),
        SCALED, BLOCK_R, BLOCK_K,
    )  # fmt: skip
    bias = tl.load(Bias + k, mask=k < width, other=0.0).to(tl.float32)
    out = tl.load(X + at, mask=inside, other=0.0).to(tl.float32)
    out += tl.load(Y + at, mask=inside, other=0.0).to(tl.float32)
    out += scale[:, None] * bias[None, :]
    tl.store(Out + at, out.to(Out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["eps"])
def norm_grad_kernel(
    X, T, sums, moments, Out, eps, rows, width: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Out = X and what batch norm's backward adds for its input T."""
    at, inside, k, _ = _tile(
        rows, width, rows, X, tl.program_id(0) * BLOCK_R, tl.program_id(1), False, BLOCK_R, BLOCK_K
    )
    a, b = norm_terms(sums, moments, k, k < width, eps, rows, width)
    t = tl.load(T + at, mask=inside, other=0.0).to(tl.float32)
    out = tl.load(X + at, mask=inside, other=0.0).to(tl.float32) + a[None, :] + b[None, :] * t
    tl.store(Out + at, out.to(Out.dtype.element_ty), mask=inside)


@triton.jit
def sum_kernel(
    X, Partial, Scale, rows, width, pixels, chunks,
    SCALED: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """A chunk's sums of scale x X over rows: (chunks, width)."""
    chunk = tl.program_id(0)
    total = tl.zeros((BLOCK_R, BLOCK_K), tl.float32)
    for first in range(chunk * BLOCK_R, rows, chunks * BLOCK_R):
        at, inside, _, scale = _tile(
            rows, width, pixels, Scale, first, tl.program_id(1), SCALED, BLOCK_R, BLOCK_K
        )
        total += tl.load(X + at, mask=inside, other=0.0).to(tl.float32) * scale[:, None]
    k = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    tl.store(Partial + chunk * width + k, tl.sum(total, 0), mask=k < width)


def wide_product(a: Tensor, b: Tensor) -> Tensor:
    """`fold.wide_product` on a CUDA device; cuBLAS computes it."""
    return a @ b if a.dtype == torch.float32 else torch.mm(a, b, out_dtype=torch.float32)


def scaled_gelu(hidden: Tensor, scale: Tensor | None) -> Tensor:
    """`fold.scaled_gelu` on a CUDA device."""
    out = torch.empty_like(hidden)
    grid, *sizes = _plan(hidden, scale)
    with torch.cuda.device_of(hidden):
        gelu_kernel[grid](hidden, out, *sizes, **_blocks(scale))
    return out


def scaled_gelu_grad(hidden: Tensor, grad: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor]:
    """`fold.scaled_gelu_grad` on a CUDA device."""
    out = torch.empty_like(hidden)
    return out, _column_sums(gelu_grad_kernel, hidden, scale, hidden, grad, out)


def scaled_add(
    y: Tensor, x: Tensor, bias: Tensor, scale: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """`fold.scaled_add` on a CUDA device."""
    out = y.new_empty(y.shape, dtype=dtype)
    grid, *sizes = _plan(y, scale)
    with torch.cuda.device_of(y):
        add_kernel[grid](x, y, bias, out, *sizes, **_blocks(scale))
    return out


def norm_grad(grad: Tensor, inputs: Tensor, sums: Tensor, moments: Tensor, eps: float) -> Tensor:
    """`fold.norm_grad` on a CUDA device."""
    out = torch.empty_like(grad)
    grid, _, rows, width, _ = _plan(grad, None)
    with torch.cuda.device_of(grad):
        norm_grad_kernel[grid](
            grad, inputs, sums, moments, out, eps, rows, width,
            BLOCK_R=_BLOCK_R, BLOCK_K=_BLOCK_K,
        )  # fmt: skip
    return out


def scaled_sum(x: Tensor, scale: Tensor | None) -> Tensor:
    """`fold.scaled_sum` on a CUDA device."""
    return _column_sums(sum_kernel, x, scale, x)


def _column_sums(kernel: Any, x: Tensor, scale: Tensor | None, *operands: Tensor) -> Tensor:
    """Launch a kernel whose chunks of rows give sums over them; their total, (width,) in fp32."""
    (rows, blocks), *sizes = _plan(x, scale)
    chunks = min(rows, max(1, _PROGRAMS // blocks))
    partial = x.new_empty(chunks, x.shape[1], dtype=torch.float32)
    with torch.cuda.device_of(x):
        kernel[(chunks, blocks)](*operands, partial, *sizes, chunks, **_blocks(scale))
    return partial.sum(0)


def _plan(x: Tensor, scale: Tensor | None) -> tuple[tuple[int, int], Tensor, int, int, int]:
    """Blocks of rows and columns, and the kernels' common arguments."""
    rows, width = x.shape
    grid = (triton.cdiv(rows, _BLOCK_R), triton.cdiv(width, _BLOCK_K))
    pixels = rows if scale is None else rows // scale.shape[0]
    return grid, x if scale is None else scale, rows, width, pixels


def _blocks(scale: Tensor | None) -> dict[str, int]:
    return {"SCALED": scale is not None, "BLOCK_R": _BLOCK_R, "BLOCK_K": _BLOCK_K}
