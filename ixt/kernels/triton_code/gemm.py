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
    """This program's block of rows and of columns, and both: GROUP blocks of rows go together."""
    across: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    group = tl.program_id(0) // (GROUP * across)
    inner = tl.program_id(0) % (GROUP * across)
    high = tl.minimum(tl.cdiv(rows, BLOCK_R) - group * GROUP, GROUP)
    block = group * GROUP + inner % high
    r = block * BLOCK_R + tl.arange(0, BLOCK_R)
    n = inner // high * BLOCK_N + tl.arange(0, BLOCK_N)
    return block, inner // high, r, n


@triton.jit
def _elements(r, n, rows, N: tl.constexpr):
    """Where a program's part of a (rows, N) matrix lies, and what of it exists."""
    return (r.to(tl.int64) * N)[:, None] + n[None, :], (r < rows)[:, None] & (n < N)[None, :]


@triton.jit
def _product(
    total, A, W, r, n, rows, N: tl.constexpr, K: tl.constexpr, TURNED: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Total + rows r of A (rows, K) times columns n of W: (K, N), or (N, K) if TURNED."""
    k = tl.arange(0, BLOCK_K)
    a_at = A + (r.to(tl.int64) * K)[:, None] + k[None, :]
    w_at = W + (k * (1 if TURNED else N))[:, None] + (n * (K if TURNED else 1))[None, :]
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
    _, _, r, n = _place(rows, N, BLOCK_R, BLOCK_N, GROUP)
    total = tl.zeros((BLOCK_R, BLOCK_N), tl.float32)
    total = _product(total, A, W, r, n, rows, N, K, True, PRECISION, BLOCK_K)
    total += tl.load(Bias + n, mask=n < N, other=0.0).to(tl.float32)[None, :]
    at, inside = _elements(r, n, rows, N)
    # GELU of what is stored: the backward pass takes the slope there.
    hidden = total.to(Hidden.dtype.element_ty)
    tl.store(Hidden + at, hidden, mask=inside)
    scale = image_scale(Scale, r, rows, pixels, SCALED, BLOCK_R)
    out = gelu(hidden.to(tl.float32)) * scale[:, None]
    tl.store(Out + at, out.to(Out.dtype.element_ty), mask=inside)


@triton.jit
def _add_rows(A, r, rows, pixels, Scale, Sums, K: tl.constexpr, SCALED: tl.constexpr,
              BLOCK_R: tl.constexpr):  # fmt: skip
    """The sums of a block's rows of A, each times its image's scale: few columns at a time."""
    scale = image_scale(Scale, r, rows, pixels, SCALED, BLOCK_R)
    for first in tl.range(0, K, 16, num_stages=1):
        k = first + tl.arange(0, 16)
        at, inside = _elements(r, k, rows, K)
        a = tl.load(A + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(Sums + k, tl.sum(a * scale[:, None], 0), mask=k < K)


@triton.jit
def product_gelu_grad_kernel(
    A, W, Hidden, Out, Partial, Scale, rows, pixels,
    N: tl.constexpr, K: tl.constexpr, SCALED: tl.constexpr, PRECISION: tl.constexpr,
    GROUP: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Out = scale x GELU'(Hidden) x (A W); blocks' sums of it and of scale x A: (blocks, N + K)."""
    block, column, r, n = _place(rows, N, BLOCK_R, BLOCK_N, GROUP)
    total = tl.zeros((BLOCK_R, BLOCK_N), tl.float32)
    total = _product(total, A, W, r, n, rows, N, K, False, PRECISION, BLOCK_K)
    at, inside = _elements(r, n, rows, N)
    scale = image_scale(Scale, r, rows, pixels, SCALED, BLOCK_R)
    hidden = tl.load(Hidden + at, mask=inside, other=0.0).to(tl.float32)
    out = gelu_slope(hidden) * total * scale[:, None]
    tl.store(Out + at, out.to(Out.dtype.element_ty), mask=inside)
    tl.store(Partial + block * (N + K) + n, tl.sum(out, 0), mask=n < N)
    if column == 0:
        _add_rows(A, r, rows, pixels, Scale, Partial + block * (N + K) + N, K, SCALED, BLOCK_R)


@triton.jit
def product_add_kernel(
    A, W, X, Bias, Out, Scale, rows, pixels,
    N: tl.constexpr, K: tl.constexpr, SCALED: tl.constexpr, PRECISION: tl.constexpr,
    GROUP: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Out = X + A W^T + scale of the row's image x Bias."""
    _, _, r, n = _place(rows, N, BLOCK_R, BLOCK_N, GROUP)
    total = tl.zeros((BLOCK_R, BLOCK_N), tl.float32)
    total = _product(total, A, W, r, n, rows, N, K, True, PRECISION, BLOCK_K)
    at, inside = _elements(r, n, rows, N)
    scale = image_scale(Scale, r, rows, pixels, SCALED, BLOCK_R)
    bias = tl.load(Bias + n, mask=n < N, other=0.0).to(tl.float32)
    total += tl.load(X + at, mask=inside, other=0.0).to(tl.float32)
    total += scale[:, None] * bias[None, :]
    tl.store(Out + at, total.to(Out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["eps"])
def product_norm_grad_kernel(
    A, W, T, sums, moments, eps, Out, Scale, rows, pixels,
    N: tl.constexpr, K: tl.constexpr, SCALED: tl.constexpr, PRECISION: tl.constexpr,
    GROUP: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Out = A W and what batch norm's backward adds for its input T; nothing is scaled."""
    _, _, r, n = _place(rows, N, BLOCK_R, BLOCK_N, GROUP)
    a, b = norm_terms(sums, moments, n, n < N, eps, rows, N)
    at, inside = _elements(r, n, rows, N)
    # Added first: at the end, few registers would be left for it.
    total = a[None, :] + b[None, :] * tl.load(T + at, mask=inside, other=0.0).to(tl.float32)
    total = _product(total, A, W, r, n, rows, N, K, False, PRECISION, BLOCK_K)
    tl.store(Out + at, total.to(Out.dtype.element_ty), mask=inside)


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
    partial = a.new_empty(blocks, hidden.shape[1] + a.shape[1], dtype=torch.float32)
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
    a: Tensor, weight: Tensor, inputs: Tensor, sums: Tensor, moments: Tensor, eps: float, tile: str
) -> Tensor:
    """`gemm.product_norm_grad` on a CUDA device."""
    out, norm = torch.empty_like(inputs), (inputs, sums, moments, eps)
    _launch(product_norm_grad_kernel, tile, a, out, None, weight, *norm, out)
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


def _launch(
    kernel: Any, name: str, a: Tensor, result: Tensor, scale: Tensor | None, *operands: Any
) -> None:
    tile, (rows, width) = TILES[name], result.shape  # type: ignore[index]
    tf32 = torch.backends.cuda.matmul.fp32_precision == "tf32"
    with torch.cuda.device_of(a):
        kernel[(triton.cdiv(rows, tile.rows) * triton.cdiv(width, tile.columns),)](
            a, *operands, a if scale is None else scale,
            rows, rows if scale is None else rows // scale.shape[0], SCALED=scale is not None,
            PRECISION="tf32" if tf32 else "ieee", num_warps=tile.warps, num_stages=tile.stages,
            **constants(tile, a.element_size(), width, a.shape[1]),
        )  # fmt: skip
