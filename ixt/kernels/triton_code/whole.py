"""A block's MLP and its gradients, whole: what lies between its products stays in registers.

A program of `whole_mlp_kernel` and of `whole_input_grad_kernel` owns a block of rows with all their
channels and walks over the hidden features; one of `whole_weight_grad_kernel` owns a block of
hidden features and walks over rows. The channels lie in two parts, WIDE and NARROW (0 for none),
as Triton's blocks are powers of two: 96 are 64 and 32, where one block would waste a quarter.

With KEPT, hidden features before GELU are written once and read back; without, they are computed
again, and rounded as if they had been written. Sums are in fp32; nothing is added up by atomics.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-untyped-call"
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ixt.kernels.triton_code.mlp import gelu, gelu_slope, image_scale, norm_terms

# Of the weights' gradients: two waves on the 132 multiprocessors of an H100. Whatever the device,
# so that sums have one order.
_PROGRAMS = 264
_ELEMENTS = 256


@triton.jit
def _part(base, step, other, first: tl.constexpr, C: tl.constexpr, WIDTH: tl.constexpr,
          ACROSS: tl.constexpr):  # fmt: skip
    """A block of a matrix at `base`, whose channels are `step` apart; `other` is what exists.

    Its channels, from `first` on, are columns if ACROSS, else rows.
    """
    c = first + tl.arange(0, WIDTH)
    at = base[:, None] + c[None, :] * step if ACROSS else base[None, :] + c[:, None] * step
    inside = other[:, None] if ACROSS else other[None, :]
    if first + WIDTH > C:
        inside = inside & ((c < C)[None, :] if ACROSS else (c < C)[:, None])
    return tl.load(at, mask=inside, other=0.0)


@triton.jit
def _pair(base, step, other, C: tl.constexpr, WIDE: tl.constexpr, NARROW: tl.constexpr,
          ACROSS: tl.constexpr):  # fmt: skip
    """Both parts of the channels; see `_part`."""
    one = _part(base, step, other, 0, C, WIDE, ACROSS)
    two = one
    if NARROW:
        two = _part(base, step, other, WIDE, C, NARROW, ACROSS)
    return one, two


@triton.jit
def _over_channels(a, a2, b, b2, NARROW: tl.constexpr, PRECISION: tl.constexpr):
    """The product of two matrices over channels that lie in two parts."""
    total = tl.dot(a, b, input_precision=PRECISION)
    if NARROW:
        total = tl.dot(a2, b2, total, input_precision=PRECISION)
    return total


@triton.jit
def _to_channels(a, b, b2, y, y2, NARROW: tl.constexpr, PRECISION: tl.constexpr):
    """Add a product whose result has channels in two parts."""
    y = tl.dot(a, b, y, input_precision=PRECISION)
    if NARROW:
        y2 = tl.dot(a, b2, y2, input_precision=PRECISION)
    return y, y2


@triton.jit
def whole_mlp_kernel(
    T, W1, B1, W2, B2, X, Hidden, Out, Scale, rows, pixels,
    C: tl.constexpr, F: tl.constexpr, SCALED: tl.constexpr, KEPT: tl.constexpr,
    PRECISION: tl.constexpr, WIDE: tl.constexpr, NARROW: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    """Out = X + scale of the row's image x (GELU(T W1^T + B1) W2^T + B2)."""
    r = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    at = r.to(tl.int64) * C
    t, t2 = _pair(T + at, 1, r < rows, C, WIDE, NARROW, True)
    scale = image_scale(Scale, r, rows, pixels, SCALED, BLOCK_R)
    y = tl.zeros((BLOCK_R, WIDE), tl.float32)
    y2 = tl.zeros((BLOCK_R, NARROW if NARROW else WIDE), tl.float32)
    for first in range(0, F, BLOCK_F):
        f = first + tl.arange(0, BLOCK_F)
        w, w2 = _pair(W1 + f * C, 1, f < F, C, WIDE, NARROW, True)
        h = _over_channels(t, t2, tl.trans(w), tl.trans(w2), NARROW, PRECISION)
        h += tl.load(B1 + f, mask=f < F, other=0.0).to(tl.float32)[None, :]
        h = h.to(T.dtype.element_ty)
        if KEPT:
            kept = (r.to(tl.int64) * F)[:, None] + f[None, :]
            tl.store(Hidden + kept, h, mask=(r < rows)[:, None] & (f < F)[None, :])
        g = (gelu(h.to(tl.float32)) * scale[:, None]).to(T.dtype.element_ty)
        v, v2 = _pair(W2 + f, F, f < F, C, WIDE, NARROW, False)
        y, y2 = _to_channels(g, tl.trans(v), tl.trans(v2), y, y2, NARROW, PRECISION)
    _finish(y, X, B2, Out, scale, r, rows, 0, C, WIDE)
    if NARROW:
        _finish(y2, X, B2, Out, scale, r, rows, WIDE, C, NARROW)


@triton.jit
def _finish(y, X, B2, Out, scale, r, rows, first: tl.constexpr, C: tl.constexpr,
            WIDTH: tl.constexpr):  # fmt: skip
    """Write X + y + scale x B2 for some of the channels."""
    c = first + tl.arange(0, WIDTH)
    at = (r.to(tl.int64) * C)[:, None] + c[None, :]
    inside = (r < rows)[:, None] & (c < C)[None, :]
    bias = tl.load(B2 + c, mask=c < C, other=0.0).to(tl.float32)
    y += tl.load(X + at, mask=inside, other=0.0).to(tl.float32)
    y += scale[:, None] * bias[None, :]
    tl.store(Out + at, y.to(Out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["eps", "norm_count"])
def whole_input_grad_kernel(
    D, T, W1, B1, W2, Hidden, sums, moments, Out, Partial, Scale, eps, norm_count, rows, pixels,
    C: tl.constexpr, F: tl.constexpr, SCALED: tl.constexpr, KEPT: tl.constexpr,
    NORM: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr, NARROW: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    """Gradient of T from that of `whole_mlp_kernel`'s Out; each block's sums of scale x D.

    With NORM, what batch norm's backward adds for its input T is in it.
    """
    r = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    at = r.to(tl.int64) * C
    y = tl.zeros((BLOCK_R, WIDE), tl.float32)
    y2 = tl.zeros((BLOCK_R, NARROW if NARROW else WIDE), tl.float32)
    # Added first: at the end, no registers would be left for it.
    if NORM:
        y = _norm_share(T, sums, moments, at, r < rows, eps, norm_count, 0, C, WIDE)
        if NARROW:
            y2 = _norm_share(T, sums, moments, at, r < rows, eps, norm_count, WIDE, C, NARROW)
    scale = image_scale(Scale, r, rows, pixels, SCALED, BLOCK_R)
    d, d2 = _pair(D + at, 1, r < rows, C, WIDE, NARROW, True)
    _sums(d, scale, Partial + tl.program_id(0) * C, 0, C, WIDE)
    if NARROW:
        _sums(d2, scale, Partial + tl.program_id(0) * C, WIDE, C, NARROW)
    d, d2 = d.to(T.dtype.element_ty), d2.to(T.dtype.element_ty)
    if not KEPT:
        t, t2 = _pair(T + at, 1, r < rows, C, WIDE, NARROW, True)
    for first in range(0, F, BLOCK_F):
        f = first + tl.arange(0, BLOCK_F)
        w, w2 = _pair(W1 + f * C, 1, f < F, C, WIDE, NARROW, True)
        if KEPT:
            kept = (r.to(tl.int64) * F)[:, None] + f[None, :]
            h = tl.load(Hidden + kept, mask=(r < rows)[:, None] & (f < F)[None, :], other=0.0)
        else:
            h = _over_channels(t, t2, tl.trans(w), tl.trans(w2), NARROW, PRECISION)
            h += tl.load(B1 + f, mask=f < F, other=0.0).to(tl.float32)[None, :]
            h = h.to(T.dtype.element_ty)
        v, v2 = _pair(W2 + f, F, f < F, C, WIDE, NARROW, False)
        g = _over_channels(d, d2, v, v2, NARROW, PRECISION)
        g = (g * gelu_slope(h.to(tl.float32)) * scale[:, None]).to(T.dtype.element_ty)
        y, y2 = _to_channels(g, w, w2, y, y2, NARROW, PRECISION)
    _write(y, Out, at, r < rows, 0, C, WIDE)
    if NARROW:
        _write(y2, Out, at, r < rows, WIDE, C, NARROW)


@triton.jit
def _norm_share(T, sums, moments, at, real, eps, norm_count, first: tl.constexpr,
                C: tl.constexpr, WIDTH: tl.constexpr):  # fmt: skip
    """What batch norm's backward adds to the gradient of some of its channels."""
    c = first + tl.arange(0, WIDTH)
    a, b = norm_terms(sums, moments, c, c < C, eps, norm_count, C)
    inside = real[:, None] & (c < C)[None, :]
    t = tl.load(T + at[:, None] + c[None, :], mask=inside, other=0.0).to(tl.float32)
    return a[None, :] + b[None, :] * t


@triton.jit
def _sums(d, scale, Partial, first: tl.constexpr, C: tl.constexpr, WIDTH: tl.constexpr):
    c = first + tl.arange(0, WIDTH)
    tl.store(Partial + c, tl.sum(d.to(tl.float32) * scale[:, None], 0), mask=c < C)


@triton.jit
def _write(y, Out, at, real, first: tl.constexpr, C: tl.constexpr, WIDTH: tl.constexpr):
    """Write rows, or features, for some of the channels."""
    c = first + tl.arange(0, WIDTH)
    inside = real[:, None] & (c < C)[None, :]
    tl.store(Out + at[:, None] + c[None, :], y.to(Out.dtype.element_ty), mask=inside)


@triton.jit
def whole_weight_grad_kernel(
    D, T, W1, B1, W2, Hidden, Partial, Scale, rows, pixels, chunks,
    C: tl.constexpr, F: tl.constexpr, SCALED: tl.constexpr, KEPT: tl.constexpr,
    PRECISION: tl.constexpr, WIDE: tl.constexpr, NARROW: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    """A chunk's sums over rows: gradients of W1, of W2^T, (F, C) each, and of B1, (F,)."""
    f = tl.program_id(0) * BLOCK_F + tl.arange(0, BLOCK_F)
    chunk = tl.program_id(1)
    v, v2 = _pair(W2 + f, F, f < F, C, WIDE, NARROW, False)
    v, v2 = tl.trans(v), tl.trans(v2)
    if not KEPT:
        w, w2 = _pair(W1 + f * C, 1, f < F, C, WIDE, NARROW, True)
        b = tl.load(B1 + f, mask=f < F, other=0.0).to(tl.float32)[:, None]
    NEXT: tl.constexpr = NARROW if NARROW else WIDE
    a, a2 = tl.zeros((BLOCK_F, WIDE), tl.float32), tl.zeros((BLOCK_F, NEXT), tl.float32)
    y, y2 = tl.zeros((BLOCK_F, WIDE), tl.float32), tl.zeros((BLOCK_F, NEXT), tl.float32)
    total = tl.zeros((BLOCK_F,), tl.float32)
    for first in range(chunk * BLOCK_R, rows, chunks * BLOCK_R):
        r = first + tl.arange(0, BLOCK_R)
        at = r.to(tl.int64) * C
        t, t2 = _pair(T + at, 1, r < rows, C, WIDE, NARROW, True)
        d, d2 = _pair(D + at, 1, r < rows, C, WIDE, NARROW, True)
        d, d2 = d.to(T.dtype.element_ty), d2.to(T.dtype.element_ty)
        scale = image_scale(Scale, r, rows, pixels, SCALED, BLOCK_R)
        if KEPT:
            kept = (r.to(tl.int64) * F)[None, :] + f[:, None]
            h = tl.load(Hidden + kept, mask=(r < rows)[None, :] & (f < F)[:, None], other=0.0)
        else:
            h = _over_channels(w, w2, tl.trans(t), tl.trans(t2), NARROW, PRECISION) + b
            h = h.to(T.dtype.element_ty)
        h = h.to(tl.float32)
        g = (gelu(h) * scale[None, :]).to(T.dtype.element_ty)
        y, y2 = _to_channels(g, d, d2, y, y2, NARROW, PRECISION)
        g = _over_channels(v, v2, tl.trans(d), tl.trans(d2), NARROW, PRECISION)
        g = g * gelu_slope(h) * scale[None, :]
        total += tl.sum(g, 1)
        a, a2 = _to_channels(g.to(T.dtype.element_ty), t, t2, a, a2, NARROW, PRECISION)
    Partial += chunk * (2 * F * C + F)
    _write(a, Partial, f * C, f < F, 0, C, WIDE)
    _write(y, Partial + F * C, f * C, f < F, 0, C, WIDE)
    if NARROW:
        _write(a2, Partial, f * C, f < F, WIDE, C, NARROW)
        _write(y2, Partial + F * C, f * C, f < F, WIDE, C, NARROW)
    tl.store(Partial + 2 * F * C + f, total, mask=f < F)


@triton.jit
def add_up_kernel(
    Partial, Dw1, Db1, Dw2, chunks, C: tl.constexpr, F: tl.constexpr, ELEMENTS: tl.constexpr
):  # fmt: skip
    """The sums of all chunks: gradients of W1 (F, C), of B1, of W2 (C, F)."""
    i = tl.program_id(0) * ELEMENTS + tl.arange(0, ELEMENTS)
    WHOLE: tl.constexpr = 2 * F * C + F
    total = tl.zeros((ELEMENTS,), tl.float32)
    for chunk in range(chunks):
        total += tl.load(Partial + chunk * WHOLE + i, mask=i < WHOLE, other=0.0)
    second = i - F * C
    tl.store(Dw1 + i, total, mask=i < F * C)
    tl.store(Dw2 + second % C * F + second // C, total, mask=(second >= 0) & (second < F * C))
    tl.store(Db1 + i - 2 * F * C, total, mask=(i >= 2 * F * C) & (i < WHOLE))


def whole_mlp(
    t: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, x: Tensor, scale: Tensor | None,
    dtype: torch.dtype, keep: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`whole.whole_mlp` on a CUDA device."""
    out = torch.empty_like(x, dtype=dtype)
    hidden = t.new_empty((len(t), len(w1)) if keep else (0,))
    blocks = row_blocks(t.shape[1], _is_hopper(t), x.element_size())
    with torch.cuda.device_of(t):
        whole_mlp_kernel[(triton.cdiv(len(t), blocks["BLOCK_R"]),)](
            t, w1, b1, w2, b2, x, hidden if keep else t, out, *_images(t, scale),
            **_constants(t, w1, scale, keep), **blocks,
        )  # fmt: skip
    return out, hidden


def whole_input_grad(
    grad: Tensor, t: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, hidden: Tensor | None,
    scale: Tensor | None, sums: Tensor | None, moments: Tensor | None, eps: float, count: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`whole.whole_input_grad` on a CUDA device."""
    keep, out = hidden is not None, torch.empty_like(t)
    blocks = row_blocks(t.shape[1], _is_hopper(t), grad.element_size())
    programs = triton.cdiv(len(t), blocks["BLOCK_R"])
    partial = t.new_empty(programs, t.shape[1], dtype=torch.float32)
    scales, *sizes = _images(t, scale)
    with torch.cuda.device_of(t):
        whole_input_grad_kernel[(programs,)](
            grad, t, w1, b1, w2, t if hidden is None else hidden, partial if sums is None else sums,
            partial if moments is None else moments, out, partial, scales, eps, count, *sizes,
            **_constants(t, w1, scale, keep), NORM=sums is not None, **blocks,
        )  # fmt: skip
    return out, partial.sum(0)


def whole_weight_grad(
    grad: Tensor, t: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, hidden: Tensor | None,
    scale: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """`whole.whole_weight_grad` on a CUDA device."""
    keep, (features, channels) = hidden is not None, w1.shape
    blocks = weight_blocks(channels, _is_hopper(t))
    across = triton.cdiv(features, blocks["BLOCK_F"])
    chunks = min(triton.cdiv(len(t), blocks["BLOCK_R"]), max(1, _PROGRAMS // across))
    partial = t.new_empty(chunks, 2 * features * channels + features, dtype=torch.float32)
    d_w1, d_b1, d_w2 = (partial.new_empty(w.shape) for w in (w1, b1, w2))
    with torch.cuda.device_of(t):
        whole_weight_grad_kernel[(across, chunks)](
            grad, t, w1, b1, w2, t if hidden is None else hidden, partial, *_images(t, scale),
            chunks, **_constants(t, w1, scale, keep), **blocks,
        )  # fmt: skip
        add_up_kernel[(triton.cdiv(partial.shape[1], _ELEMENTS),)](
            partial, d_w1, d_b1, d_w2, chunks, C=channels, F=features, ELEMENTS=_ELEMENTS
        )
    return d_w1, d_b1, d_w2


def row_blocks(channels: int, hopper: bool, stream_bytes: int = 2) -> dict[str, int]:
    """Blocks of the kernels that own rows, and how they run."""
    blocks = {"BLOCK_R": 128 if channels <= 128 else 64, "BLOCK_F": 32}
    # Two programs fit on a multiprocessor of an H100 then, as with 64 channels. Others would spill.
    few = {"maxnreg": 128} if hopper and channels == 96 and stream_bytes == 2 else {}
    return {**blocks, **_parts(channels), "num_warps": 8, "num_stages": 2, **few}


def weight_blocks(channels: int, hopper: bool) -> dict[str, int]:
    """Blocks of the kernel that owns hidden features, and how it runs."""
    blocks = {"BLOCK_R": 32, "num_warps": 8, "num_stages": 2}
    if hopper:
        # Of fewer features than 64, its products would not be those of a warp group.
        return {**blocks, "BLOCK_F": 64, **_parts(channels)}
    # Parts of 64 and 32 channels would spill.
    return {**blocks, "BLOCK_F": 32, **_parts(128 if 64 < channels <= 128 else channels)}


def _parts(channels: int) -> dict[str, int]:
    """The least power of two that holds the channels, or three quarters of it in two parts."""
    whole = max(64, triton.next_power_of_2(channels))
    if 64 < channels <= whole * 3 // 4:
        return {"WIDE": whole // 2, "NARROW": whole // 4}
    return {"WIDE": whole, "NARROW": 0}


def _constants(t: Tensor, w1: Tensor, scale: Tensor | None, keep: bool) -> dict[str, Any]:
    features, channels = w1.shape
    tf32 = torch.backends.cuda.matmul.fp32_precision == "tf32"
    precision = "tf32" if tf32 else "ieee"
    return {
        **{"C": channels, "F": features, "PRECISION": precision},
        **{"SCALED": scale is not None, "KEPT": keep},
    }


def _images(t: Tensor, scale: Tensor | None) -> tuple[Tensor, int, int]:
    """Scales of images, rows, and rows of an image."""
    return (t, len(t), len(t)) if scale is None else (scale, len(t), len(t) // len(scale))


def _is_hopper(t: Tensor) -> bool:
    return t.is_cuda and torch.cuda.get_device_capability(t.device)[0] == 9
