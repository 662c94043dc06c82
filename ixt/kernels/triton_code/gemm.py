"""Matrix products of a block's MLP that finish their results before they reach memory, in Triton.

What `mlp.py` does to a product in a pass of its own is done here to the sums while they are
in registers: no result is written, read and written again. Sums are kept in fp32. A program owns
whole elements of the result and nothing is added up by atomics: the same bits every time.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-untyped-call"
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ixt.kernels.shapes import TILES, Tile
from ixt.kernels.triton_code.mlp import gelu, gelu_slope, image_scale, norm_terms

# Rows of tiles that are worked on side by side, so that they share columns of weights in the cache.
_GROUP = 8


@triton.jit
def _place(rows, N: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr,
           GROUP: tl.constexpr):  # fmt: skip
    """This program's block of rows, its rows and columns: GROUP blocks of rows advance together."""
    across: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    group = tl.program_id(0) // (GROUP * across)
    inner = tl.program_id(0) % (GROUP * across)
    high = tl.minimum(tl.cdiv(rows, BLOCK_R) - group * GROUP, GROUP)
    block = group * GROUP + inner % high
    r = block * BLOCK_R + tl.arange(0, BLOCK_R)
    n = inner // high * BLOCK_N + tl.arange(0, BLOCK_N)
    return block, r, n


@triton.jit
def _elements(r, n, rows, N: tl.constexpr):
    """Where a program's part of a (rows, N) matrix lies, and what of it exists."""
    return (r.to(tl.int64) * N)[:, None] + n[None, :], (r < rows)[:, None] & (n < N)[None, :]


@triton.jit
def _product(
    A, W, r, n, rows, N: tl.constexpr, K: tl.constexpr, TURNED: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Rows r of A (rows, K) times columns n of W: (K, N), or (N, K) if TURNED. Zero outside."""
    k = tl.arange(0, BLOCK_K)
    a_at = A + (r.to(tl.int64) * K)[:, None] + k[None, :]
    w_at = W + (k * (1 if TURNED else N))[:, None] + (n * (K if TURNED else 1))[None, :]
    total = tl.zeros((BLOCK_R, BLOCK_N), tl.float32)
    for first in range(0, K, BLOCK_K):
        a_real, w_real = (r < rows)[:, None], (n < N)[None, :]
        if K % BLOCK_K:
            a_real = a_real & (k < K - first)[None, :]
            w_real = w_real & (k < K - first)[:, None]
        a = tl.load(a_at, mask=a_real, other=0.0)
        w = tl.load(w_at, mask=w_real, other=0.0)
        total = tl.dot(a, w, total, input_precision=PRECISION)
        a_at += BLOCK_K
        w_at += BLOCK_K if TURNED else BLOCK_K * N
    return total


@triton.jit
def product_gelu_kernel(
    A, W, Bias, Hidden, Out, Scale, rows, pixels,
    N: tl.constexpr, K: tl.constexpr, SCALED: tl.constexpr, PRECISION: tl.constexpr,
    GROUP: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Hidden = A W^T + Bias, and Out = scale of the row's image x GELU(Hidden), exact."""
    _, r, n = _place(rows, N, BLOCK_R, BLOCK_N, GROUP)
    total = _product(A, W, r, n, rows, N, K, True, PRECISION, BLOCK_R, BLOCK_N, BLOCK_K)
    total += tl.load(Bias + n, mask=n < N, other=0.0).to(tl.float32)[None, :]
    at, inside = _elements(r, n, rows, N)
    # GELU of what is stored: the backward pass takes the slope there.
    hidden = total.to(Hidden.dtype.element_ty)
    tl.store(Hidden + at, hidden, mask=inside)
    scale = image_scale(Scale, r, rows, pixels, SCALED, BLOCK_R)
    out = gelu(hidden.to(tl.float32)) * scale[:, None]
    tl.store(Out + at, out.to(Out.dtype.element_ty), mask=inside)


@triton.jit
def product_gelu_grad_kernel(
    A, W, Hidden, Out, Partial, Scale, rows, pixels,
    N: tl.constexpr, K: tl.constexpr, SCALED: tl.constexpr, PRECISION: tl.constexpr,
    GROUP: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Out = scale x GELU'(Hidden) x (A W); each block of rows' sums of Out: (blocks, N)."""
    block, r, n = _place(rows, N, BLOCK_R, BLOCK_N, GROUP)
    total = _product(A, W, r, n, rows, N, K, False, PRECISION, BLOCK_R, BLOCK_N, BLOCK_K)
    at, inside = _elements(r, n, rows, N)
    scale = image_scale(Scale, r, rows, pixels, SCALED, BLOCK_R)
    hidden = tl.load(Hidden + at, mask=inside, other=0.0).to(tl.float32)
    out = gelu_slope(hidden) * total * scale[:, None]
    tl.store(Out + at, out.to(Out.dtype.element_ty), mask=inside)
    tl.store(Partial + block * N + n, tl.sum(out, 0), mask=n < N)


@triton.jit
def product_add_kernel(
    A, W, X, Bias, Out, Scale, rows, pixels,
    N: tl.constexpr, K: tl.constexpr, SCALED: tl.constexpr, PRECISION: tl.constexpr,
    GROUP: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Out = X + A W^T + scale of the row's image x Bias."""
    _, r, n = _place(rows, N, BLOCK_R, BLOCK_N, GROUP)
    total = _product(A, W, r, n, rows, N, K, True, PRECISION, BLOCK_R, BLOCK_N, BLOCK_K)
    at, inside = _elements(r, n, rows, N)
    scale = image_scale(Scale, r, rows, pixels, SCALED, BLOCK_R)
    bias = tl.load(Bias + n, mask=n < N, other=0.0).to(tl.float32)
    total += tl.load(X + at, mask=inside, other=0.0).to(tl.float32)
    total += scale[:, None] * bias[None, :]
    tl.store(Out + at, total.to(Out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["eps", "norm_count"])
def product_norm_grad_kernel(
    A, W, T, sums, moments, Out, eps, norm_count, rows,
    N: tl.constexpr, K: tl.constexpr, PRECISION: tl.constexpr,
    GROUP: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Out = A W and what batch norm's backward adds for its input T."""
    _, r, n = _place(rows, N, BLOCK_R, BLOCK_N, GROUP)
    total = _product(A, W, r, n, rows, N, K, False, PRECISION, BLOCK_R, BLOCK_N, BLOCK_K)
    a, b = norm_terms(sums, moments, n, n < N, eps, norm_count, N)
    at, inside = _elements(r, n, rows, N)
    t = tl.load(T + at, mask=inside, other=0.0).to(tl.float32)
    out = total + a[None, :] + b[None, :] * t
    tl.store(Out + at, out.to(Out.dtype.element_ty), mask=inside)


def product_gelu(
    a: Tensor, weight: Tensor, bias: Tensor, scale: Tensor | None, tile: str
) -> tuple[Tensor, Tensor]:
    """`gemm.product_gelu` on a CUDA device."""
    hidden, out = (a.new_empty(len(a), len(weight)) for _ in range(2))
    _launch(product_gelu_kernel, tile, a, hidden, scale, weight, bias, hidden, out)
    return hidden, out


def product_gelu_grad(
    a: Tensor, weight: Tensor, hidden: Tensor, scale: Tensor | None, tile: str
) -> tuple[Tensor, Tensor]:
    """`gemm.product_gelu_grad` on a CUDA device."""
    blocks = triton.cdiv(len(a), TILES[tile].rows)  # type: ignore[index]
    partial = a.new_empty(blocks, hidden.shape[1], dtype=torch.float32)
    out = torch.empty_like(hidden)
    _launch(product_gelu_grad_kernel, tile, a, hidden, scale, weight, hidden, out, partial)
    return out, partial.sum(0)


def product_add(
    a: Tensor, weight: Tensor, x: Tensor, bias: Tensor, scale: Tensor | None, dtype: torch.dtype,
    tile: str,
) -> Tensor:  # fmt: skip
    """`gemm.product_add` on a CUDA device."""
    out = torch.empty_like(x, dtype=dtype)
    _launch(product_add_kernel, tile, a, out, scale, weight, x, bias, out)
    return out


def product_norm_grad(
    a: Tensor, weight: Tensor, inputs: Tensor, sums: Tensor, moments: Tensor, eps: float,
    count: float, tile: str,
) -> Tensor:  # fmt: skip
    """`gemm.product_norm_grad` on a CUDA device."""
    out, shape = torch.empty_like(inputs), TILES[tile]  # type: ignore[index]
    (rows, width), depth = out.shape, a.shape[1]
    with torch.cuda.device_of(a):
        product_norm_grad_kernel[_grid(shape, rows, width)](
            a, weight, inputs, sums, moments, out, eps, count, rows,
            **constants(shape, a.element_size(), width, depth), **_options(shape),
        )  # fmt: skip
    return out


def constants(tile: Tile, element_bytes: int, width: int, depth: int) -> dict[str, Any]:
    """The kernels' arguments that follow from sizes: (rows, depth) to (rows, width)."""
    return {
        "N": width,
        "K": depth,
        "GROUP": _GROUP,
        "BLOCK_R": tile.rows,
        "BLOCK_N": tile.columns,
        "BLOCK_K": tile.depth_bytes // element_bytes,
    }


def _grid(tile: Tile, rows: int, width: int) -> tuple[int]:
    return (triton.cdiv(rows, tile.rows) * triton.cdiv(width, tile.columns),)


def _options(tile: Tile) -> dict[str, Any]:
    tf32 = torch.backends.cuda.matmul.fp32_precision == "tf32"
    return {
        "PRECISION": "tf32" if tf32 else "ieee",
        "num_warps": tile.warps,
        "num_stages": tile.stages,
    }


def _launch(
    kernel: Any, name: str, a: Tensor, result: Tensor, scale: Tensor | None, *operands: Tensor
) -> None:
    tile, (rows, width) = TILES[name], result.shape  # type: ignore[index]
    with torch.cuda.device_of(a):
        kernel[_grid(tile, rows, width)](
            a, *operands, a if scale is None else scale,
            rows, rows if scale is None else rows // scale.shape[0], SCALED=scale is not None,
            **constants(tile, a.element_size(), width, a.shape[1]), **_options(tile),
        )  # fmt: skip
