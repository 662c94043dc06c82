"""What the Triton kernels of depthwise bands share: where elements lie, and how large tiles are."""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from ixt.kernels.shapes import Bands

Norm = tuple[Tensor, Tensor, Tensor, float, float]
"""A batch norm: inputs, sums, moments, eps and count, as `bands_norm` has them."""

# Filters of more taps are worked on row by row, or a thread's registers run out.
MOST_TAPS = tl.constexpr(11)


@triton.jit
def positions(p, H, W, COLUMNS: tl.constexpr):
    """Row and column of pixels, counted along columns or along rows."""
    if COLUMNS:
        h, w = p % H, p // H
    else:
        h, w = p // W, p % W
    return h, w


@triton.jit
def offsets(h, w, c, H, W, C: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """Elements from an image's start to pixels (P,) and channels (K,): (P, K)."""
    if CHANNELS_LAST:
        at = ((h * W + w) * C)[:, None] + c[None, :]
    else:
        at = (h * W + w)[:, None] + (c * (H * W))[None, :]
    return at


@triton.jit
def norm_terms(sums, moments, c, real, eps, count, C: tl.constexpr):
    """What batch norm's backward adds to a gradient of its normalised input: a + b x input.

    Args (pointers): sums (2, C) as `fold.unfold` gives them; moments (2 or 3, C): mean, variance.
    """
    mean = tl.load(moments + c, mask=real, other=0.0)
    inverse = 1.0 / (tl.load(moments + C + c, mask=real, other=0.0) + eps)
    b = -tl.load(sums + C + c, mask=real, other=0.0) * inverse / count
    a = -tl.load(sums + c, mask=real, other=0.0) / count - b * mean
    return a, b


@triton.jit
def load_grad(D, T, at, inside, a, b, NORM: tl.constexpr):
    """Gradients in fp32, zero outside; with NORM those of batch norm's input T."""
    d = tl.load(D + at, mask=inside, other=0.0).to(tl.float32)
    if NORM:
        t = tl.load(T + at, mask=inside, other=0.0).to(tl.float32)
        d = tl.where(inside, d + a[None, :] + b[None, :] * t, 0.0)
    return d


def dense(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The tensors, copied where they are not contiguous."""
    return tuple(tensor.contiguous() for tensor in tensors)


def norm_arguments(x: Tensor, norm: Norm | None) -> Norm:
    """What kernels are given of a batch norm; of none, what they do not read."""
    return (x, x, x, 0.0, 1.0) if norm is None else norm


def tile_shape(x: Tensor, bands: Bands) -> dict[str, Any]:
    """The compile-time arguments that the kernels share: sizes, memory order, tiles.

    Args:
        x: (N, C, H, W), contiguous in NCHW or in NHWC.
        bands: of its channels.
    """
    channels = x.shape[1]
    # Where both orders hold, as with one pixel or one channel, they are the same.
    last = not x.is_contiguous()
    shape = {
        "C": channels,
        "G": bands.groups,
        "DILATION": bands.dilation,
        "CHANNELS_LAST": last,
    }
    if last:
        passed = channels - len(bands.sizes) * bands.groups
        tiles = {
            "BLOCK_P": 64,
            "BLOCK_ID": channel_block(passed, 128),
            "BLOCK_G": channel_block(bands.groups, 32),
        }
    else:
        # A plane is contiguous: long tiles of it, so that rows above and below are cached.
        pixels = triton.next_power_of_2(x.shape[2] * x.shape[3])
        tiles = {"BLOCK_P": max(16, min(1024, pixels)), "BLOCK_ID": 1, "BLOCK_G": 1}
    return {**shape, **tiles}


def channel_block(count: int, largest: int) -> int:
    """Channels of a tile in NHWC: the largest power of two that leaves few lanes idle."""
    sizes = [size for size in (128, 64, 32, 16) if size <= largest]
    use = {size: count / (triton.cdiv(count, size) * size) for size in sizes if count}
    good = [size for size, share in use.items() if share >= 0.8]
    return max(good) if good else max(use, key=lambda size: (use[size], size), default=16)
