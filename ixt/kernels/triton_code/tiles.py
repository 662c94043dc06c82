"""What the Triton kernels of depthwise bands share: where elements lie, and how large tiles are."""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"
from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import gcd
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from ixt.kernels.shapes import Bands

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


def are_taps_first(filters: Sequence[Tensor]) -> bool:
    """Whether each tap's channels are neighbours in memory, so that a thread reads several."""
    return all(f.permute(1, 2, 3, 0).is_contiguous() for f in filters)


def dense(filters: Sequence[Tensor], taps_first: bool) -> tuple[Tensor, ...]:
    """The filters, copied where their channels, or else their taps, are not dense in memory."""
    return tuple(filters) if taps_first else tuple(f.contiguous() for f in filters)


def tile_shape(x: Tensor, bands: Bands) -> dict[str, Any]:
    """The compile-time arguments that the kernels share: sizes, memory order, tiles.

    x is (N, C, H, W), contiguous in NCHW or in NHWC.
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
        block = channel_block(bands.groups, 32)
        # A tile that is copied has four times the elements of one that is convolved.
        tiles = {"BLOCK_P": 64, "BLOCK_ID": channel_block(passed, 4 * block), "BLOCK_G": block}
    else:
        # A plane is contiguous: long tiles of it, so that rows above and below are cached.
        pixels = triton.next_power_of_2(x.shape[2] * x.shape[3])
        tiles = {"BLOCK_P": max(16, min(1024, pixels)), "BLOCK_ID": 1, "BLOCK_G": 1}
    return {**shape, **tiles}


def options(shape: Mapping[str, Any], num_bands: int, narrow: bool) -> dict[str, int]:
    """How a kernel runs: with as many warps as leave each thread 8 elements of a band's tile.

    With more of them, registers leave room for half as many warps.

    `shape` are the kernel's compile-time arguments. `narrow`: in NHWC, leave each thread one load
    of a tile, also where bands begin so that it holds fewer than 8 channels.
    """
    elements = 8
    if narrow and shape["CHANNELS_LAST"]:
        elements = gcd(8, shape["G"], shape["C"] - num_bands * shape["G"])
    warps = shape["BLOCK_P"] * shape["BLOCK_G"] // (32 * elements)
    return {"num_warps": min(8, max(4, warps))}


def channel_block(count: int, largest: int) -> int:
    """Channels of a tile in NHWC: the largest power of two that leaves few lanes idle."""
    sizes = [size for size in (128, 64, 32, 16) if size <= largest]
    use = {size: count / (triton.cdiv(count, size) * size) for size in sizes if count}
    good = [size for size, share in use.items() if share >= 0.8]
    return max(good) if good else max(use, key=lambda size: (use[size], size), default=16)
