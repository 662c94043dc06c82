"""Depthwise bands in Triton: channels that pass, and all bands, in one launch.

InceptionNeXt's mixer is three bands (square, row, column), ConvNeXt's 7x7 is one over all channels.
One program computes one tile: some pixels of one image times some channels of one band, or copies
a tile of the channels that pass through. Programs of a tile's bands are neighbours in the grid, so
that the memory sectors which bands share come from the L2 cache. Sums are kept in fp32, in an order
that does not depend on the device, so results are the same bits in every run.

Weight gradients are in `band_grads.py`.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-untyped-call"
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ixt.kernels.operators import like, ordered, wide_dtype
from ixt.kernels.shapes import Bands
from ixt.kernels.triton_code.stats import moments_of
from ixt.kernels.triton_code.tiles import (
    MOST_TAPS,
    are_taps_first,
    dense,
    offsets,
    options,
    positions,
    tile_shape,
)


@triton.jit
def _finish_tile(
    value, Y, R, Shifts, Stats, at, inside, c, real, count, C: tl.constexpr,
    SHIFT: tl.constexpr, STATS: tl.constexpr, RESIDUAL: tl.constexpr,
):  # fmt: skip
    """Store a tile; with STATS also, per channel, its mean and sum of squared distances from it."""
    if RESIDUAL:
        value += tl.load(R + at, mask=inside, other=0.0).to(tl.float32)
    if SHIFT:
        value -= tl.load(Shifts + c, mask=real, other=0.0).to(tl.float32)[None, :]
    rounded = value.to(Y.dtype.element_ty)
    tl.store(Y + at, rounded, mask=inside)
    if STATS:
        stored = rounded.to(tl.float32)
        mean = tl.sum(tl.where(inside, stored, 0.0), 0) / count
        apart = tl.where(inside, stored - mean[None, :], 0.0)
        tl.store(Stats + c, mean, mask=real)
        tl.store(Stats + C + c, tl.sum(apart * apart, 0), mask=real)


@triton.jit
def _copy_tile(
    X, Y, R, Shifts, Stats, tile, block, H, W,
    C: tl.constexpr, COUNT: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    SHIFT: tl.constexpr, STATS: tl.constexpr, RESIDUAL: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    p = tile * BLOCK_P + tl.arange(0, BLOCK_P)
    c = block * BLOCK_C + tl.arange(0, BLOCK_C)
    real = c < COUNT
    # Pixels stay in one line: no row and column is needed, and vectors may cross rows.
    at = offsets(0, p, c, H, W, C, CHANNELS_LAST)
    inside = (p < H * W)[:, None] & real[None, :]
    value = tl.load(X + at, mask=inside, other=0.0).to(tl.float32)
    count = tl.minimum(BLOCK_P, H * W - tile * BLOCK_P)
    _finish_tile(value, Y, R, Shifts, Stats, at, inside, c, real, count, C, SHIFT, STATS, RESIDUAL)


@triton.jit
def _add_taps(
    total, X, weight, h, w, c, real, row, H, W,
    C: tl.constexpr, FIRST: tl.constexpr, G: tl.constexpr,
    KH: tl.constexpr, KW: tl.constexpr, ROWS: tl.constexpr, DILATION: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, TAPS_FIRST: tl.constexpr, BACKWARD: tl.constexpr,
):  # fmt: skip
    """Add the products of ROWS rows of taps."""
    for i in tl.static_range(ROWS * KW):
        hh = h + (row + i // KW - KH // 2) * DILATION
        ww = w + (i % KW - KW // 2) * DILATION
        inside = (hh >= 0) & (hh < H) & (ww >= 0) & (ww < W)
        at = offsets(hh, ww, FIRST + c, H, W, C, CHANNELS_LAST)
        x = tl.load(X + at, mask=inside[:, None] & real[None, :], other=0.0).to(tl.float32)
        # The gradient of a convolution is one with its taps in reverse.
        tap = KH * KW - 1 - (row * KW + i) if BACKWARD else row * KW + i
        place = tap * G + c if TAPS_FIRST else c * (KH * KW) + tap
        k = tl.load(weight + place, mask=real, other=0.0)
        total += x * k.to(tl.float32)[None, :]
    return total


@triton.jit
def _convolve_tile(
    X, Y, R, weight, bias, Shifts, Stats, tile, block, H, W,
    C: tl.constexpr, FIRST: tl.constexpr, G: tl.constexpr,
    KH: tl.constexpr, KW: tl.constexpr, DILATION: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, TAPS_FIRST: tl.constexpr, BACKWARD: tl.constexpr,
    COLUMNS: tl.constexpr, SHIFT: tl.constexpr, STATS: tl.constexpr, RESIDUAL: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    p = tile * BLOCK_P + tl.arange(0, BLOCK_P)
    h, w = positions(p, H, W, COLUMNS)
    c = block * BLOCK_C + tl.arange(0, BLOCK_C)
    real = c < G
    total = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    if KH * KW <= MOST_TAPS:
        total = _add_taps(
            total, X, weight, h, w, c, real, 0, H, W,
            C, FIRST, G, KH, KW, KH, DILATION, CHANNELS_LAST, TAPS_FIRST, BACKWARD,
        )  # fmt: skip
    else:
        for row in range(KH):
            total = _add_taps(
                total, X, weight, h, w, c, real, row, H, W,
                C, FIRST, G, KH, KW, 1, DILATION, CHANNELS_LAST, TAPS_FIRST, BACKWARD,
            )  # fmt: skip
    if not BACKWARD:
        total += tl.load(bias + c, mask=real, other=0.0).to(tl.float32)[None, :]
    at = offsets(h, w, FIRST + c, H, W, C, CHANNELS_LAST)
    inside = (p < H * W)[:, None] & real[None, :]
    count = tl.minimum(BLOCK_P, H * W - tile * BLOCK_P)
    _finish_tile(
        total, Y, R, Shifts, Stats, at, inside, FIRST + c, real, count, C, SHIFT, STATS, RESIDUAL
    )


@triton.jit(do_not_specialize=["tiles"])
def bands_kernel(
    X, Y, R, filters, biases, Shifts, Stats, H, W, tiles,
    SIZES: tl.constexpr, C: tl.constexpr, G: tl.constexpr, DILATION: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, TAPS_FIRST: tl.constexpr, BACKWARD: tl.constexpr,
    SHIFT: tl.constexpr, STATS: tl.constexpr, RESIDUAL: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_ID: tl.constexpr, BLOCK_G: tl.constexpr,
):  # fmt: skip
    """Y = bands(X), or with BACKWARD the gradient of the input; see `bands.py`."""
    num_bands: tl.constexpr = len(SIZES)
    passed: tl.constexpr = C - num_bands * G
    id_blocks: tl.constexpr = (passed + BLOCK_ID - 1) // BLOCK_ID
    blocks: tl.constexpr = (G + BLOCK_G - 1) // BLOCK_G
    sections: tl.constexpr = id_blocks + num_bands * blocks
    section = tl.program_id(0) % sections
    tile = tl.program_id(0) // sections
    if STATS:
        Stats += tile.to(tl.int64) * (2 * C)
    image = (tile // tiles).to(tl.int64) * (C * H * W)
    tile = tile % tiles
    X += image
    Y += image
    R += image
    if id_blocks > 0:  # noqa: SIM102 - known at compile time
        if section < id_blocks:
            _copy_tile(
                X, Y, R, Shifts, Stats, tile, section, H, W,
                C, passed, CHANNELS_LAST, SHIFT, STATS, RESIDUAL, BLOCK_P, BLOCK_ID,
            )  # fmt: skip
    for i in tl.static_range(num_bands):
        block = section - (id_blocks + i * blocks)
        if (block >= 0) & (block < blocks):
            # Walking down columns, a tile finds its neighbours above and below in its own L1
            # cache. In NCHW it would read single elements of different sectors.
            _convolve_tile(
                X, Y, R, filters[i], biases[i], Shifts, Stats, tile, block, H, W,
                C, passed + i * G, G, SIZES[i][0], SIZES[i][1], DILATION,
                CHANNELS_LAST, TAPS_FIRST, BACKWARD, CHANNELS_LAST and SIZES[i][0] > SIZES[i][1],
                SHIFT, STATS, RESIDUAL, BLOCK_P, BLOCK_G,
            )  # fmt: skip


def depthwise_bands(
    x: Tensor, filters: Sequence[Tensor], biases: Sequence[Tensor], dilation: int
) -> Tensor:
    """`bands.depthwise_bands` on a CUDA device."""
    out = like(x)
    _launch(ordered(x), out, filters, biases, dilation)
    return out


def bands_moments(
    x: Tensor, filters: Sequence[Tensor], biases: Sequence[Tensor], dilation: int, shift: Tensor,
    stats: bool, dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`bands.bands_moments` on a CUDA device."""
    out, x = like(x, dtype), ordered(x)
    if not stats:
        _launch(x, out, filters, biases, dilation, shift)
        return out, x.new_empty(3, 0, dtype=wide_dtype(dtype))
    tiles, tile_pixels = num_tiles(x, Bands.of(filters, dilation))
    images, channels, height, width = x.shape
    # Mean, and sum of squared distances from it, of every tile's pixels.
    room = x.new_empty(images * tiles, 2, channels, dtype=torch.float32)
    _launch(x, out, filters, biases, dilation, shift, room)
    return out, moments_of(room, images, tile_pixels, height * width)


def bands_input_grad(
    grad: Tensor, filters: Sequence[Tensor], dilation: int, residual: Tensor | None
) -> Tensor:
    """`bands.bands_input_grad` on a CUDA device."""
    out = like(grad, None if residual is None else residual.dtype)
    _launch(ordered(grad), out, filters, filters, dilation, residual=residual, backward=True)
    return out


def num_tiles(x: Tensor, bands: Bands) -> tuple[int, int]:
    """Tiles of each image, and pixels of a whole tile."""
    pixels: int = bands_shape(x, bands)["BLOCK_P"]
    return triton.cdiv(x.shape[2] * x.shape[3], pixels), pixels


def _launch(
    x: Tensor,
    y: Tensor,
    filters: Sequence[Tensor],
    biases: Sequence[Tensor],
    dilation: int,
    shift: Tensor | None = None,
    stats: Tensor | None = None,
    residual: Tensor | None = None,
    backward: bool = False,
) -> None:
    if not x.numel():
        return
    bands, taps_first = Bands.of(filters, dilation), are_taps_first(filters)
    shape = bands_shape(
        x, bands, TAPS_FIRST=taps_first, BACKWARD=backward, SHIFT=shift is not None,
        STATS=stats is not None, RESIDUAL=residual is not None,
    )  # fmt: skip
    passed = shape["C"] - len(filters) * shape["G"]
    sections = triton.cdiv(passed, shape["BLOCK_ID"])
    sections += len(filters) * triton.cdiv(shape["G"], shape["BLOCK_G"])
    tiles = triton.cdiv(x.shape[2] * x.shape[3], shape["BLOCK_P"])
    weights = dense(filters, taps_first)
    # Where a kernel does not read a tensor, any pointer will do.
    with torch.cuda.device_of(x):
        bands_kernel[(sections * tiles * x.shape[0],)](
            x, y, x if residual is None else residual,
            weights, weights if backward else tuple(b.contiguous() for b in biases),
            x if shift is None else shift, x if stats is None else stats,
            x.shape[2], x.shape[3], tiles, **shape, **bands_options(shape),
        )  # fmt: skip


def bands_options(shape: Mapping[str, Any]) -> dict[str, int]:
    """How `bands_kernel` runs; see `tiles.options`. Forward, narrow loads alone would spill."""
    return options(shape, len(shape["SIZES"]), narrow=shape["BACKWARD"])


def bands_shape(x: Tensor, bands: Bands, **flags: bool) -> dict[str, Any]:
    """The compile-time arguments of `bands_kernel`.

    x is as in `tile_shape`. `flags`, all off by default, are TAPS_FIRST, of filters; BACKWARD;
    SHIFT, STATS and RESIDUAL: what the kernel does besides.
    """
    without = dict.fromkeys(("TAPS_FIRST", "BACKWARD", "SHIFT", "STATS", "RESIDUAL"), False)
    shape = {**tile_shape(x, bands), **without, **flags, "SIZES": bands.sizes}
    if any(h * w > MOST_TAPS.value for h, w in bands.sizes):
        # Many taps: fewer pixels, or registers run out.
        shape["BLOCK_P"] = min(shape["BLOCK_P"], max(16, 1024 // shape["BLOCK_G"]))
    return shape
