"""Mean and variance of channels from those of tiles, in Triton: for batch norm.

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
def image_moments_kernel(
    tiles, images, num_tiles, tile_pixels, pixels,
    C: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The tiles of each image become one: (N x tiles, 2, C) to (N, 2, C)."""
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    t = tl.arange(0, BLOCK_T)
    inside = (t < num_tiles)[:, None] & (c < C)[None, :]
    tiles += tl.program_id(0).to(tl.int64) * num_tiles * (2 * C)
    at = (t * (2 * C))[:, None] + c[None, :]
    mean = tl.load(tiles + at, mask=inside, other=0.0)
    squares = tl.load(tiles + C + at, mask=inside, other=0.0)
    count = tl.minimum(tile_pixels, tl.maximum(pixels - t * tile_pixels, 0)).to(tl.float32)
    whole = tl.sum(mean * count[:, None], 0) / pixels
    apart = mean - whole[None, :]
    images += tl.program_id(0) * (2 * C)
    tl.store(images + c, whole, mask=c < C)
    total = tl.sum(squares + apart * apart * count[:, None], 0)
    tl.store(images + C + c, total, mask=c < C)


@triton.jit
def batch_moments_kernel(
    images, moments, num_images, pixels,
    C: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The images become one: (N, 2, C) to mean, biased and unbiased variance (3, C)."""
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    total = tl.zeros((BLOCK_N, BLOCK_C), tl.float32)
    for first in range(0, num_images, BLOCK_N):
        n = first + tl.arange(0, BLOCK_N)
        inside = (n < num_images)[:, None] & (c < C)[None, :]
        total += tl.load(images + (n * (2 * C))[:, None] + c[None, :], mask=inside, other=0.0)
    mean = tl.sum(total, 0) / num_images
    total = tl.zeros((BLOCK_N, BLOCK_C), tl.float32)
    for first in range(0, num_images, BLOCK_N):
        n = first + tl.arange(0, BLOCK_N)
        inside = (n < num_images)[:, None] & (c < C)[None, :]
        at = (n * (2 * C))[:, None] + c[None, :]
        apart = tl.load(images + at, mask=inside, other=0.0) - mean[None, :]
        squares = tl.load(images + C + at, mask=inside, other=0.0)
        total += tl.where(inside, squares + apart * apart * pixels, 0.0)
    squares = tl.sum(total, 0)
    count = num_images * pixels
    tl.store(moments + c, mean, mask=c < C)
    tl.store(moments + C + c, squares / count, mask=c < C)
    tl.store(moments + 2 * C + c, squares / tl.maximum(count - 1, 1), mask=c < C)


def moments_of(stats: Tensor, images: int, tile_pixels: int, pixels: int) -> Tensor:
    """Combine tiles' moments over a batch.

    Args:
        stats: (images x tiles, 2, C) in fp32: as `bands.bands_kernel` writes them.
        images: in the batch.
        tile_pixels: of a whole tile; the last one of an image may have fewer.
        pixels: of an image.

    Returns:
        (3, C) in fp32: mean, biased variance, unbiased variance.
    """
    channels, tiles = stats.shape[2], stats.shape[0] // images
    block = min(32, triton.next_power_of_2(channels))
    blocks = triton.cdiv(channels, block)
    moments = stats.new_empty(3, channels)
    with torch.cuda.device_of(stats):
        if tiles > 1:
            merged = stats.new_empty(images, 2, channels)
            image_moments_kernel[(images, blocks)](
                stats, merged, tiles, tile_pixels, pixels,
                C=channels, BLOCK_T=triton.next_power_of_2(tiles), BLOCK_C=block,
            )  # fmt: skip
            stats = merged
        batch_moments_kernel[(blocks,)](
            stats, moments, images, pixels, C=channels, BLOCK_N=64, BLOCK_C=block
        )
    return moments
