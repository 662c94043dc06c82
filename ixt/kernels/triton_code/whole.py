"""A block's MLP and its gradients, whole: what lies between its products stays in registers.

A program of `whole_mlp_kernel` and of `whole_input_grad_kernel` owns a block of rows with all their
channels and walks over the hidden features; one of `whole_weight_grad_kernel` owns a block of
hidden features and walks over rows. The channels lie in two parts, WIDE and NARROW (0 for none),
as Triton's blocks are powers of two: 96 are 64 and 32, where one block would waste a quarter.

Hidden features before GELU are computed again in a backward pass, and rounded as if they had been
written. Sums are in fp32; nothing is added up by atomics.
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
    T, W1, B1, W2, B2, X, Out, Scale, rows, pixels,
    C: tl.constexpr, F: tl.constexpr, SCALED: tl.constexpr, PRECISION: tl.constexpr,
    WIDE: tl.constexpr, NARROW: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_F: tl.constexpr,
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


@triton.jit(do_not_specialize=["eps"])
def whole_input_grad_kernel(
    D, T, W1, B1, W2, sums, moments, Out, Scale, eps, rows, pixels, NORM: tl.constexpr,
    C: tl.constexpr, F: tl.constexpr, SCALED: tl.constexpr, PRECISION: tl.constexpr,
    WIDE: tl.constexpr, NARROW: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    """Gradient of T from that of `whole_mlp_kernel`'s Out.

    With NORM, what batch norm's backward adds for its input T is in it.
    """
    r = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    at = r.to(tl.int64) * C
    y = tl.zeros((BLOCK_R, WIDE), tl.float32)
    y2 = tl.zeros((BLOCK_R, NARROW if NARROW else WIDE), tl.float32)
    # Added first: at the end, no registers would be left for it.
    if NORM:
        y = _norm_share(T, sums, moments, at, r < rows, eps, rows, 0, C, WIDE)
        if NARROW:
            y2 = _norm_share(T, sums, moments, at, r < rows, eps, rows, WIDE, C, NARROW)
    scale = image_scale(Scale, r, rows, pixels, SCALED, BLOCK_R)
    d, d2 = _pair(D + at, 1, r < rows, C, WIDE, NARROW, True)
    d, d2 = d.to(T.dtype.element_ty), d2.to(T.dtype.element_ty)
    t, t2 = _pair(T + at, 1, r < rows, C, WIDE, NARROW, True)
    for first in range(0, F, BLOCK_F):
        f = first + tl.arange(0, BLOCK_F)
        w, w2 = _pair(W1 + f * C, 1, f < F, C, WIDE, NARROW, True)
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
def _norm_share(T, sums, moments, at, real, eps, rows, first: tl.constexpr,
                C: tl.constexpr, WIDTH: tl.constexpr):  # fmt: skip
    """What batch norm's backward adds to the gradient of some of its channels."""
    c = first + tl.arange(0, WIDTH)
    a, b = norm_terms(sums, moments, c, c < C, eps, rows, C)
    inside = real[:, None] & (c < C)[None, :]
    t = tl.load(T + at[:, None] + c[None, :], mask=inside, other=0.0).to(tl.float32)
    return a[None, :] + b[None, :] * t


@triton.jit
def _sums(total, Partial, first: tl.constexpr, C: tl.constexpr, WIDTH: tl.constexpr):
    c = first + tl.arange(0, WIDTH)
    tl.store(Partial + c, tl.sum(total, 0), mask=c < C)


@triton.jit
def _write(y, Out, at, real, first: tl.constexpr, C: tl.constexpr, WIDTH: tl.constexpr):
    """Write rows, or features, for some of the channels."""
    c = first + tl.arange(0, WIDTH)
    inside = real[:, None] & (c < C)[None, :]
    tl.store(Out + at[:, None] + c[None, :], y.to(Out.dtype.element_ty), mask=inside)


@triton.jit
def whole_weight_grad_kernel(
    D, T, W1, B1, W2, Partial, Scale, rows, pixels, chunks,
    C: tl.constexpr, F: tl.constexpr, SCALED: tl.constexpr, PRECISION: tl.constexpr,
    WIDE: tl.constexpr, NARROW: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    """A chunk's sums over rows: gradients of W1, W2^T, (F, C) each, B1, (F,), and B2, (C,)."""
    f = tl.program_id(0) * BLOCK_F + tl.arange(0, BLOCK_F)
    chunk = tl.program_id(1)
    v, v2 = _pair(W2 + f, F, f < F, C, WIDE, NARROW, False)
    v, v2 = tl.trans(v), tl.trans(v2)
    w, w2 = _pair(W1 + f * C, 1, f < F, C, WIDE, NARROW, True)
    b = tl.load(B1 + f, mask=f < F, other=0.0).to(tl.float32)[:, None]
    NEXT: tl.constexpr = NARROW if NARROW else WIDE
    a, a2 = tl.zeros((BLOCK_F, WIDE), tl.float32), tl.zeros((BLOCK_F, NEXT), tl.float32)
    y, y2 = tl.zeros((BLOCK_F, WIDE), tl.float32), tl.zeros((BLOCK_F, NEXT), tl.float32)
    total = tl.zeros((BLOCK_F,), tl.float32)
    s, s2 = tl.zeros((BLOCK_R, WIDE), tl.float32), tl.zeros((BLOCK_R, NEXT), tl.float32)
    for first in range(chunk * BLOCK_R, rows, chunks * BLOCK_R):
        r = first + tl.arange(0, BLOCK_R)
        at = r.to(tl.int64) * C
        t, t2 = _pair(T + at, 1, r < rows, C, WIDE, NARROW, True)
        d, d2 = _pair(D + at, 1, r < rows, C, WIDE, NARROW, True)
        scale = image_scale(Scale, r, rows, pixels, SCALED, BLOCK_R)
        # Few of all instructions; programs of their own would read D once more.
        s += d.to(tl.float32) * scale[:, None]
        if NARROW:
            s2 += d2.to(tl.float32) * scale[:, None]
        d, d2 = d.to(T.dtype.element_ty), d2.to(T.dtype.element_ty)
        h = _over_channels(w, w2, tl.trans(t), tl.trans(t2), NARROW, PRECISION) + b
        h = h.to(T.dtype.element_ty).to(tl.float32)
        g = (gelu(h) * scale[None, :]).to(T.dtype.element_ty)
        y, y2 = _to_channels(g, d, d2, y, y2, NARROW, PRECISION)
        g = _over_channels(v, v2, tl.trans(d), tl.trans(d2), NARROW, PRECISION)
        g = g * gelu_slope(h) * scale[None, :]
        total += tl.sum(g, 1)
        a, a2 = _to_channels(g.to(T.dtype.element_ty), t, t2, a, a2, NARROW, PRECISION)
    Partial += chunk * (2 * F * C + F + C)
    _write(a, Partial, f * C, f < F, 0, C, WIDE)
    _write(y, Partial + F * C, f * C, f < F, 0, C, WIDE)
    if NARROW:
        _write(a2, Partial, f * C, f < F, WIDE, C, NARROW)
        _write(y2, Partial + F * C, f * C, f < F, WIDE, C, NARROW)
    tl.store(Partial + 2 * F * C + f, total, mask=f < F)
    if tl.program_id(0) == 0:
        _sums(s, Partial + 2 * F * C + F, 0, C, WIDE)
        if NARROW:
            _sums(s2, Partial + 2 * F * C + F, WIDE, C, NARROW)


@triton.jit
def add_up_kernel(
    Partial, Dw1, Db1, Dw2, Db2, chunks, C: tl.constexpr, F: tl.constexpr, ELEMENTS: tl.constexpr
):  # fmt: skip
    """The sums of all chunks: gradients of W1 (F, C), of B1, of W2 (C, F), of B2."""
    i = tl.program_id(0) * ELEMENTS + tl.arange(0, ELEMENTS)
    WHOLE: tl.constexpr = 2 * F * C + F + C
    total = tl.zeros((ELEMENTS,), tl.float32)
    for chunk in range(chunks):
        total += tl.load(Partial + chunk * WHOLE + i, mask=i < WHOLE, other=0.0)
    second = i - F * C
    tl.store(Dw1 + i, total, mask=i < F * C)
    tl.store(Dw2 + second % C * F + second // C, total, mask=(second >= 0) & (second < F * C))
    bias = i - 2 * F * C
    tl.store(Db1 + bias, total, mask=(bias >= 0) & (bias < F))
    tl.store(Db2 + bias - F, total, mask=(bias >= F) & (i < WHOLE))


def whole_mlp(
    t: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, x: Tensor, scale: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """`gemm.whole_mlp` on a CUDA device."""
    out = torch.empty_like(x, dtype=dtype)
    blocks = row_blocks(t.shape[1])
    with torch.cuda.device_of(t):
        whole_mlp_kernel[(triton.cdiv(len(t), blocks["BLOCK_R"]),)](
            t, w1, b1, w2, b2, x, out, *_images(t, scale), **_constants(w1, scale), **blocks
        )
    return out


def whole_input_grad(
    grad: Tensor, t: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, scale: Tensor | None,
    sums: Tensor | None, moments: Tensor | None, eps: float,
) -> Tensor:  # fmt: skip
    """`gemm.whole_input_grad` on a CUDA device."""
    out, blocks = torch.empty_like(t), row_blocks(t.shape[1])
    scales, *sizes = _images(t, scale)
    # Where a kernel does not read a tensor, any pointer will do.
    with torch.cuda.device_of(t):
        whole_input_grad_kernel[(triton.cdiv(len(t), blocks["BLOCK_R"]),)](
            grad, t, w1, b1, w2, t if sums is None else sums, t if moments is None else moments,
            out, scales, eps, *sizes, NORM=sums is not None, **_constants(w1, scale),
            **blocks,
        )  # fmt: skip
    return out


def whole_weight_grad(
    grad: Tensor, t: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, scale: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`gemm.whole_weight_grad` on a CUDA device."""
    features, channels = w1.shape
    blocks = weight_blocks(channels, _is_hopper(t))
    across = triton.cdiv(features, blocks["BLOCK_F"])
    chunks = min(triton.cdiv(len(t), blocks["BLOCK_R"]), max(1, _PROGRAMS // across))
    whole = 2 * features * channels + features + channels
    partial = t.new_empty(chunks, whole, dtype=torch.float32)
    d_w1, d_b1, d_w2 = (partial.new_empty(w.shape) for w in (w1, b1, w2))
    out = (d_w1, d_b1, d_w2, partial.new_empty(channels))
    with torch.cuda.device_of(t):
        whole_weight_grad_kernel[(across, chunks)](
            grad, t, w1, b1, w2, partial, *_images(t, scale), chunks, **_constants(w1, scale),
            **blocks,
        )  # fmt: skip
        add_up_kernel[(triton.cdiv(whole, _ELEMENTS),)](
            partial, *out, chunks, C=channels, F=features, ELEMENTS=_ELEMENTS
        )
    return out


def row_blocks(channels: int) -> dict[str, int]:
    """Blocks of the kernels that own rows, and how they run."""
    # Three programs fit on a multiprocessor then. With 128 channels they would spill.
    few = {"maxnreg": 168} if channels <= 96 else {}
    blocks = {"BLOCK_R": 64, "BLOCK_F": 32, **_parts(channels)}
    return {**blocks, "num_warps": 4, "num_stages": 2, **few}


def weight_blocks(channels: int, hopper: bool) -> dict[str, int]:
    """Blocks of the kernel that owns hidden features, and how it runs."""
    if hopper:
        # 64 features for each of two warp groups: of fewer, both would compute all.
        blocks = {"BLOCK_R": 32, "BLOCK_F": 128, **_parts(channels)}
    elif channels <= 64:
        blocks = {"BLOCK_R": 32, "BLOCK_F": 32, **_parts(channels)}
    else:
        # Parts of 64 and 32 channels would spill.
        blocks = {"BLOCK_R": 64, "BLOCK_F": 64, **_parts(128)}
    return {**blocks, "num_warps": 4 if blocks["BLOCK_F"] == 32 else 8, "num_stages": 2}


def _parts(channels: int) -> dict[str, int]:
    """The least power of two that holds the channels, or three quarters of it in two parts."""
    whole = max(64, triton.next_power_of_2(channels))
    if 64 < channels <= whole * 3 // 4:
        return {"WIDE": whole // 2, "NARROW": whole // 4}
    return {"WIDE": whole, "NARROW": 0}


def _constants(w1: Tensor, scale: Tensor | None) -> dict[str, Any]:
    features, channels = w1.shape
    tf32 = torch.backends.cuda.matmul.fp32_precision == "tf32"
    precision = "tf32" if tf32 else "ieee"
    return {"C": channels, "F": features, "SCALED": scale is not None, "PRECISION": precision}


def _images(t: Tensor, scale: Tensor | None) -> tuple[Tensor, int, int]:
    """Scales of images, rows, and rows of an image."""
    return (t, len(t), len(t)) if scale is None else (scale, len(t), len(t) // len(scale))


def _is_hopper(t: Tensor) -> bool:
    return t.is_cuda and torch.cuda.get_device_capability(t.device)[0] == 9
