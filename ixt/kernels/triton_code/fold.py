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


@triton.jit
def _gains(Gamma, gain, r, width, SCALED: tl.constexpr, ROWS: tl.constexpr):
    """What rows of W2 are multiplied by."""
    gains = tl.full((ROWS,), 1.0, tl.float32) * gain
    if SCALED:
        gains *= tl.load(Gamma + r, mask=r < width, other=0.0).to(tl.float32)
    return gains


@triton.jit(do_not_specialize=["gain", "eps"])
def fold_kernel(
    W1, B1, W2, B2, Gamma, gain, moments, weight, bias, eps, out_w1, out_b1, out_w2, out_b2,
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
        gains = _gains(Gamma, gain, r, width, SCALED, ROWS)
        for first in range(0, hidden, COLUMNS):
            k = first + tl.arange(0, COLUMNS)
            at = (r * hidden)[:, None] + k[None, :]
            inside = (r < width)[:, None] & (k < hidden)[None, :]
            w = tl.load(W2 + at, mask=inside, other=0.0).to(tl.float32) * gains[:, None]
            tl.store(out_w2 + at, w.to(out_w2.dtype.element_ty), mask=inside)
        b = tl.load(B2 + r, mask=r < width, other=0.0).to(tl.float32) * gains
        tl.store(out_b2 + r, b, mask=r < width)


@triton.jit(do_not_specialize=["gain", "eps"])
def unfold_kernel(
    d_w1, d_b1, d_w2, d_b2, w1, W1, W2, B2, Gamma, gain, moments, weight, bias, eps,
    out_w1, out_w2, out_b2, out_gamma, partial, hidden, width, programs,
    SCALED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Gradients of W1, W2, B2 and Gamma from those of the folded weights.

    The first programs own blocks of W1 and also give sums over their rows, (blocks, 4, width), the
    others own rows of W2.
    """
    if tl.program_id(0) < programs:
        across = tl.cdiv(width, COLUMNS)
        r = tl.program_id(0) // across * ROWS + tl.arange(0, ROWS)
        c = tl.program_id(0) % across * COLUMNS + tl.arange(0, COLUMNS)
        scale, mean, _, beta = _norm(moments, weight, bias, eps, c, width)
        at = (r * width)[:, None] + c[None, :]
        inside = (r < hidden)[:, None] & (c < width)[None, :]
        d = tl.load(d_w1 + at, mask=inside, other=0.0)
        d_bias = tl.load(d_b1 + r, mask=r < hidden, other=0.0)[:, None]
        grad = d * scale[None, :] + d_bias * (beta - scale * mean)[None, :]
        tl.store(out_w1 + at, grad.to(out_w1.dtype.element_ty), mask=inside)
        whole = tl.load(W1 + at, mask=inside, other=0.0).to(tl.float32)
        folded = tl.load(w1 + at, mask=inside, other=0.0).to(tl.float32)
        partial += tl.program_id(0) // across * (4 * width)
        tl.store(partial + c, tl.sum(whole * d, 0), mask=c < width)
        tl.store(partial + width + c, tl.sum(whole * d_bias, 0), mask=c < width)
        tl.store(partial + 2 * width + c, tl.sum(folded * d, 0), mask=c < width)
        tl.store(partial + 3 * width + c, tl.sum(folded * d_bias, 0), mask=c < width)
    else:
        r = (tl.program_id(0) - programs) * ROWS + tl.arange(0, ROWS)
        real = r < width
        gains = _gains(Gamma, gain, r, width, SCALED, ROWS)
        total = tl.zeros((ROWS, COLUMNS), tl.float32)
        for first in range(0, hidden, COLUMNS):
            k = first + tl.arange(0, COLUMNS)
            at = (r * hidden)[:, None] + k[None, :]
            inside = real[:, None] & (k < hidden)[None, :]
            d = tl.load(d_w2 + at, mask=inside, other=0.0)
            total += d * tl.load(W2 + at, mask=inside, other=0.0).to(tl.float32)
            d *= gains[:, None]
            tl.store(out_w2 + at, d.to(out_w2.dtype.element_ty), mask=inside)
        db = tl.load(d_b2 + r, mask=real, other=0.0)
        tl.store(out_b2 + r, (db * gains).to(out_b2.dtype.element_ty), mask=real)
        if SCALED:
            b = tl.load(B2 + r, mask=real, other=0.0).to(tl.float32)
            d_gamma = gain * (tl.sum(total, 1) + b * db)
            tl.store(out_gamma + r, d_gamma.to(out_gamma.dtype.element_ty), mask=real)


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


def fold_weights(
    w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, gamma: Tensor | None, gain: float,
    moments: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """`fold.fold_weights` on a CUDA device."""
    hidden, width = w1.shape
    programs = triton.cdiv(hidden, _ROWS)
    first, offset, second = (t.new_empty(t.shape, dtype=dtype) for t in (w1, b1, w2))
    out = (first, offset, second, b2.new_empty(b2.shape, dtype=moments.dtype))
    with torch.cuda.device_of(w1):
        fold_kernel[(programs + triton.cdiv(width, _ROWS),)](
            w1, b1, w2, b2, b2 if gamma is None else gamma, gain, moments, weight, bias, eps, *out,
            hidden, width, programs, SCALED=gamma is not None, ROWS=_ROWS, COLUMNS=_COLUMNS,
        )  # fmt: skip
    return out


def unfold_weights(
    d_w1: Tensor, d_b1: Tensor, d_w2: Tensor, d_b2: Tensor, folded: Tensor,
    w1: Tensor, w2: Tensor, b2: Tensor, gamma: Tensor | None, gain: float,
    moments: Tensor, weight: Tensor, bias: Tensor, eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """`fold.unfold_weights` on a CUDA device."""
    hidden, width = w1.shape
    rows, columns = triton.cdiv(hidden, _ROWS), triton.cdiv(width, _COLUMNS)
    partial, sums = d_w1.new_empty(rows, 4, width), d_w1.new_empty(2, width)
    d_gamma = b2.new_empty(0) if gamma is None else torch.empty_like(gamma)
    grads = (w1.new_empty(w1.shape), w2.new_empty(w2.shape), torch.empty_like(b2), d_gamma)
    d_weight, d_bias = torch.empty_like(weight), torch.empty_like(bias)
    norm, blocks = (moments, weight, bias, eps), {"ROWS": _ROWS, "COLUMNS": _COLUMNS}
    with torch.cuda.device_of(w1):
        unfold_kernel[(rows * columns + triton.cdiv(width, _ROWS),)](
            d_w1, d_b1, d_w2, d_b2, folded, w1, w2, b2, b2 if gamma is None else gamma, gain, *norm,
            *grads, partial, hidden, width, rows * columns, SCALED=gamma is not None, **blocks,
        )  # fmt: skip
        finish_norm_kernel[(columns,)](
            partial, *norm, d_weight, d_bias, sums, rows, width, **blocks
        )
    return *grads, d_weight, d_bias, sums
