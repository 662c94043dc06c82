"""Folding batch norm and layer scale into an MLP's weights and back out of gradients, in Triton.

The plain twins tell the algebra. All of it is small beside the passes over images that it saves;
the kernels are there because a dozen operators of PyTorch per block would take longer to launch.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-untyped-call"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_ROWS, _COLUMNS = 16, 64


@triton.jit
def _norm(moments, weight, bias, eps, c, width):
    """Scale, mean, inverse deviation and bias of channels."""
    real = c < width
    mean = tl.load(moments + c, mask=real, other=0.0)
    inverse = 1.0 / tl.sqrt_rn(tl.load(moments + width + c, mask=real, other=0.0) + eps)
    scale = tl.load(weight + c, mask=real, other=0.0).to(tl.float32) * inverse
    return scale, mean, inverse, tl.load(bias + c, mask=real, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=["eps"])
def fold_kernel(
    W1, B1, W2, B2, Gamma, moments, weight, bias, eps, out_w1, out_b1, out_w2, out_b2,
    hidden, width, programs,
    SCALED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The first programs fold batch norm into rows of W1, the others layer scale into W2's."""
    if tl.program_id(0) < programs:
        r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        total = tl.load(B1 + r, mask=r < hidden, other=0.0).to(tl.float32)
        for first in range(0, width, COLUMNS):
            c = first + tl.arange(0, COLUMNS)
            scale, mean, _, beta = _norm(moments, weight, bias, eps, c, width)
            at = (r * width)[:, None] + c[None, :]
            inside = (r < hidden)[:, None] & (c < width)[None, :]
            w = tl.load(W1 + at, mask=inside, other=0.0).to(tl.float32)
            folded = (w * scale[None, :]).to(out_w1.dtype.element_ty)
            tl.store(out_w1 + at, folded, mask=inside)
            # With the rounded weights, the mean's part cancels in the product as it should.
            total += tl.sum(w * beta[None, :] - folded.to(tl.float32) * mean[None, :], 1)
        tl.store(out_b1 + r, total.to(out_b1.dtype.element_ty), mask=r < hidden)
    else:
        r = (tl.program_id(0) - programs) * ROWS + tl.arange(0, ROWS)
        gamma = tl.full((ROWS,), 1.0, tl.float32)
        if SCALED:
            gamma = tl.load(Gamma + r, mask=r < width, other=0.0).to(tl.float32)
        for first in range(0, hidden, COLUMNS):
            k = first + tl.arange(0, COLUMNS)
            at = (r * hidden)[:, None] + k[None, :]
            inside = (r < width)[:, None] & (k < hidden)[None, :]
            w = tl.load(W2 + at, mask=inside, other=0.0).to(tl.float32) * gamma[:, None]
            tl.store(out_w2 + at, w.to(out_w2.dtype.element_ty), mask=inside)
        b = tl.load(B2 + r, mask=r < width, other=0.0).to(tl.float32) * gamma
        tl.store(out_b2 + r, b, mask=r < width)


@triton.jit(do_not_specialize=["eps"])
def unfold_norm_kernel(
    d_w1, d_b1, w1, W1, moments, weight, bias, eps, out, partial, hidden, width,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Gradient of W1 from that of the folded weights; sums over its rows: (blocks, 4, width)."""
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    scale, mean, _, beta = _norm(moments, weight, bias, eps, c, width)
    at = (r * width)[:, None] + c[None, :]
    real = c < width
    inside = (r < hidden)[:, None] & real[None, :]
    d = tl.load(d_w1 + at, mask=inside, other=0.0)
    db = tl.load(d_b1 + r, mask=r < hidden, other=0.0)[:, None]
    grad = d * scale[None, :] + db * (beta - scale * mean)[None, :]
    tl.store(out + at, grad.to(out.dtype.element_ty), mask=inside)
    whole = tl.load(W1 + at, mask=inside, other=0.0).to(tl.float32)
    folded = tl.load(w1 + at, mask=inside, other=0.0).to(tl.float32)
    partial += tl.program_id(0) * (4 * width)
    tl.store(partial + c, tl.sum(whole * d, 0), mask=real)
    tl.store(partial + width + c, tl.sum(whole * db, 0), mask=real)
    tl.store(partial + 2 * width + c, tl.sum(folded * d, 0), mask=real)
    tl.store(partial + 3 * width + c, tl.sum(folded * db, 0), mask=real)


@triton.jit
def _column_sums(partial, c, plane, blocks, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(0, blocks, ROWS):
        b = first + tl.arange(0, ROWS)
        at = (b * (4 * width) + plane * width)[:, None] + c[None, :]
        inside = (b < blocks)[:, None] & (c < width)[None, :]
        total += tl.load(partial + at, mask=inside, other=0.0)
    return tl.sum(total, 0)


@triton.jit(do_not_specialize=["eps"])
def finish_norm_kernel(
    partial, moments, weight, bias, eps, d_weight, d_bias, sums, blocks, width,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Gradients of batch norm's weight and bias, and the two sums of its own backward."""
    c = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    real = c < width
    _, mean, inverse, _ = _norm(moments, weight, bias, eps, c, width)
    products = _column_sums(partial, c, 0, blocks, width, ROWS, COLUMNS)
    plain = _column_sums(partial, c, 1, blocks, width, ROWS, COLUMNS)
    d = inverse * (products - mean * plain)
    tl.store(d_weight + c, d.to(d_weight.dtype.element_ty), mask=real)
    tl.store(d_bias + c, plain.to(d_bias.dtype.element_ty), mask=real)
    products = _column_sums(partial, c, 2, blocks, width, ROWS, COLUMNS)
    plain = _column_sums(partial, c, 3, blocks, width, ROWS, COLUMNS)
    tl.store(sums + c, plain, mask=real)
    tl.store(sums + width + c, products - mean * plain, mask=real)


@triton.jit
def unfold_scale_kernel(
    d_w2, d_b2, W2, B2, Gamma, out_w2, out_b2, out_gamma, hidden, width,
    SCALED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Gradients of W2, its bias and layer scale from those of the folded weights."""
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    real = r < width
    gamma = tl.full((ROWS,), 1.0, tl.float32)
    if SCALED:
        gamma = tl.load(Gamma + r, mask=real, other=0.0).to(tl.float32)
    db = tl.load(d_b2 + r, mask=real, other=0.0)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(0, hidden, COLUMNS):
        k = first + tl.arange(0, COLUMNS)
        at = (r * hidden)[:, None] + k[None, :]
        inside = real[:, None] & (k < hidden)[None, :]
        d = tl.load(d_w2 + at, mask=inside, other=0.0)
        total += d * tl.load(W2 + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(out_w2 + at, (d * gamma[:, None]).to(out_w2.dtype.element_ty), mask=inside)
    tl.store(out_b2 + r, (db * gamma).to(out_b2.dtype.element_ty), mask=real)
    if SCALED:
        b = tl.load(B2 + r, mask=real, other=0.0).to(tl.float32)
        d_gamma = tl.sum(total, 1) + b * db
        tl.store(out_gamma + r, d_gamma.to(out_gamma.dtype.element_ty), mask=real)


def fold_weights(
    w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, gamma: Tensor | None,
    moments: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """`fold.fold_weights` on a CUDA device."""
    hidden, width = w1.shape
    programs = triton.cdiv(hidden, _ROWS)
    first, offset, second = (t.new_empty(t.shape, dtype=dtype) for t in (w1, b1, w2))
    out = (first, offset, second, b2.new_empty(b2.shape, dtype=moments.dtype))
    with torch.cuda.device_of(w1):
        fold_kernel[(programs + triton.cdiv(width, _ROWS),)](
            w1, b1, w2, b2, b2 if gamma is None else gamma, moments, weight, bias, eps, *out,
            hidden, width, programs, SCALED=gamma is not None, ROWS=_ROWS, COLUMNS=_COLUMNS,
        )  # fmt: skip
    return out


def unfold_norm(
    d_w1: Tensor, d_b1: Tensor, folded: Tensor, w1: Tensor,
    moments: Tensor, weight: Tensor, bias: Tensor, eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """`fold.unfold_norm` on a CUDA device."""
    hidden, width = w1.shape
    rows, columns = triton.cdiv(hidden, _ROWS), triton.cdiv(width, _COLUMNS)
    partial = d_w1.new_empty(rows, 4, width)
    grad, sums = w1.new_empty(w1.shape), d_w1.new_empty(2, width)
    d_weight, d_bias = torch.empty_like(weight), torch.empty_like(bias)
    norm, blocks = (moments, weight, bias, eps), {"ROWS": _ROWS, "COLUMNS": _COLUMNS}
    with torch.cuda.device_of(w1):
        unfold_norm_kernel[(rows, columns)](
            d_w1, d_b1, folded, w1, *norm, grad, partial, hidden, width, **blocks
        )
        finish_norm_kernel[(columns,)](
            partial, *norm, d_weight, d_bias, sums, rows, width, **blocks
        )
    return grad, d_weight, d_bias, sums


def unfold_scale(
    d_w2: Tensor, d_b2: Tensor, w2: Tensor, b2: Tensor, gamma: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """`fold.unfold_scale` on a CUDA device."""
    width, hidden = w2.shape
    d_gamma = b2.new_empty(0) if gamma is None else torch.empty_like(gamma)
    out = (w2.new_empty(w2.shape), torch.empty_like(b2), d_gamma)
    with torch.cuda.device_of(w2):
        unfold_scale_kernel[(triton.cdiv(width, _ROWS),)](
            d_w2, d_b2, w2, b2, b2 if gamma is None else gamma, *out, hidden, width,
            SCALED=gamma is not None, ROWS=_ROWS, COLUMNS=_COLUMNS,
        )  # fmt: skip
    return out
