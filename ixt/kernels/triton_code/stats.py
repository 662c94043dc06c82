"""Mean and variance of channels from those of tiles, and running ones: for batch norm, in Triton.

Sums of squared distances from a tile's own mean are combined (Chan, Golub, LeVeque 1983), so that
no digits are lost where the mean is large beside the deviation.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-untyped-call"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _parts(parts, c, first, num, part_pixels, pixels, C: tl.constexpr, BLOCK_N: tl.constexpr):
    """Means and squares of some parts, the pixels of each, and what of them exists."""
    n = first + tl.arange(0, BLOCK_N)
    inside = (n < num)[:, None] & (c < C)[None, :]
    at = (n * (2 * C))[:, None] + c[None, :]
    mean = tl.load(parts + at, mask=inside, other=0.0)
    squares = tl.load(parts + C + at, mask=inside, other=0.0)
    count = tl.minimum(part_pixels, tl.maximum(pixels - n * part_pixels, 0)).to(tl.float32)
    return mean, squares, count[:, None], inside


@triton.jit
def moments_kernel(
    parts, moments, num, part_pixels, pixels,
    LAST: tl.constexpr, C: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The parts of each image, or with LAST of the batch, become one; the last may be smaller.

    They are (num, 2, C): means, sums of squared distances. The result is the same, (2, C), or mean,
    biased and unbiased variance, (3, C).
    """
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    parts += tl.program_id(0).to(tl.int64) * num * (2 * C)
    moments += tl.program_id(0) * (2 * C) + c
    total = tl.zeros((BLOCK_N, BLOCK_C), tl.float32)
    for first in range(0, num, BLOCK_N):
        mean, _, count, _ = _parts(parts, c, first, num, part_pixels, pixels, C, BLOCK_N)
        total += mean * count
    whole = tl.sum(total, 0) / pixels
    total = tl.zeros((BLOCK_N, BLOCK_C), tl.float32)
    for first in range(0, num, BLOCK_N):
        mean, part, count, inside = _parts(parts, c, first, num, part_pixels, pixels, C, BLOCK_N)
        apart = mean - whole[None, :]
        total += tl.where(inside, part + apart * apart * count, 0.0)
    squares = tl.sum(total, 0)
    tl.store(moments, whole, mask=c < C)
    if LAST:
        tl.store(moments + C, squares / pixels, mask=c < C)
        tl.store(moments + 2 * C, squares / tl.maximum(pixels - 1, 1), mask=c < C)
    else:
        tl.store(moments + C, squares, mask=c < C)


@triton.jit(do_not_specialize=["momentum"])
def averages_kernel(
    moments, Mean, Variance, Updates, momentum, C: tl.constexpr, BLOCK_C: tl.constexpr
):
    """Move running means by moments' first row, which is relative to them, variances to its third.

    The first program counts the update.
    """
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    real = c < C
    mean = tl.load(Mean + c, mask=real, other=0.0).to(tl.float32)
    mean += momentum * tl.load(moments + c, mask=real, other=0.0)
    tl.store(Mean + c, mean.to(Mean.dtype.element_ty), mask=real)
    variance = tl.load(Variance + c, mask=real, other=0.0).to(tl.float32)
    variance += momentum * (tl.load(moments + 2 * C + c, mask=real, other=0.0) - variance)
    tl.store(Variance + c, variance.to(Variance.dtype.element_ty), mask=real)
    if tl.program_id(0) == 0:
        tl.store(Updates, tl.load(Updates) + 1)


def update_averages(
    moments: Tensor, mean: Tensor, variance: Tensor, updates: Tensor, momentum: float
) -> None:
    """`fold.update_averages` on a CUDA device."""
    with torch.cuda.device_of(moments):
        averages_kernel[(triton.cdiv(len(mean), 128),)](
            moments, mean, variance, updates, momentum, C=len(mean), BLOCK_C=128
        )


def moments_of(stats: Tensor, images: int, tile_pixels: int, pixels: int) -> Tensor:
    """Mean, biased and unbiased variance (3, C) in fp32, from tiles' moments over a batch.

    `stats` are (images x tiles, 2, C) in fp32, as `bands.bands_kernel` writes them. A whole tile
    has `tile_pixels` of an image's `pixels`; its last one may have fewer.
    """
    channels, tiles = stats.shape[2], stats.shape[0] // images
    block = min(32, triton.next_power_of_2(channels))
    blocks, sizes = triton.cdiv(channels, block), {"C": channels, "BLOCK_C": block}
    moments = stats.new_empty(3, channels)
    with torch.cuda.device_of(stats):
        if tiles > 1:
            merged = stats.new_empty(images, 2, channels)
            few = min(64, triton.next_power_of_2(tiles))
            moments_kernel[(images, blocks)](
                stats, merged, tiles, tile_pixels, pixels, LAST=False, BLOCK_N=few, **sizes
            )
            stats = merged
        moments_kernel[(1, blocks)](
            stats, moments, images, pixels, images * pixels, LAST=True, BLOCK_N=64, **sizes
        )
    return moments
