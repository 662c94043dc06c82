"""Gradients of depthwise bands' filters and biases in Triton: two launches for all of them.

Programs first add up products over some of the pixels, then others add up what those found, in an
order that does not depend on the device.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-untyped-call"
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ixt.kernels.operators import empty, memory_format, ordered
from ixt.kernels.shapes import Bands
from ixt.kernels.triton_code.tiles import (
    MOST_TAPS,
    are_taps_first,
    offsets,
    options,
    positions,
    tile_shape,
)

# Programs that keep a large device busy (8 on each of 132 multiprocessors). A constant, so that
# gradients are added up in the same order on every device.
_PROGRAMS = 1056


@triton.jit
def _correlate(
    X, D, partial, row, start, step, end, tiles, block, H, W,
    C: tl.constexpr, FIRST: tl.constexpr, G: tl.constexpr,
    KH: tl.constexpr, KW: tl.constexpr, ROWS: tl.constexpr, DILATION: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, COLUMNS: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Sums over some tiles, for ROWS rows of taps: gradient x shifted input; the gradient alone."""
    c = block * BLOCK_C + tl.arange(0, BLOCK_C)
    real = c < G
    zero = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    taps = (zero,) * (ROWS * KW)
    bias = zero
    for tile in range(start, end, step):
        p = (tile % tiles) * BLOCK_P + tl.arange(0, BLOCK_P)
        image = (tile // tiles).to(tl.int64) * (C * H * W)
        h, w = positions(p, H, W, COLUMNS)
        at = offsets(h, w, FIRST + c, H, W, C, CHANNELS_LAST)
        mine = (p < H * W)[:, None] & real[None, :]
        d = tl.load(D + image + at, mask=mine, other=0.0).to(tl.float32)
        bias += d
        for i in tl.static_range(ROWS * KW):
            hh = h + (row + i // KW - KH // 2) * DILATION
            ww = w + (i % KW - KW // 2) * DILATION
            inside = (hh >= 0) & (hh < H) & (ww >= 0) & (ww < W)
            at = offsets(hh, ww, FIRST + c, H, W, C, CHANNELS_LAST)
            x = tl.load(X + image + at, mask=inside[:, None] & mine, other=0.0)
            # Triton knows no unpacking.
            taps = taps[:i] + (taps[i] + d * x.to(tl.float32),) + taps[i + 1 :]  # noqa: RUF005
    for i in tl.static_range(ROWS * KW):
        tl.store(partial + (row * KW + i) * G + c, tl.sum(taps[i], 0), mask=real)
    if row == 0:
        tl.store(partial + KH * KW * G + c, tl.sum(bias, 0), mask=real)


@triton.jit(do_not_specialize=["tiles", "all_tiles", "chunks"])
def band_grads_kernel(
    X, D, partial, H, W, tiles, all_tiles, chunks,
    PARTS: tl.constexpr, C: tl.constexpr, G: tl.constexpr, DILATION: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, SECTIONS: tl.constexpr, TAPS: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_G: tl.constexpr,
):  # fmt: skip
    """Each chunk's part of the gradients: partial is (chunks, TAPS, G) in fp32; see `_parts`."""
    blocks: tl.constexpr = (G + BLOCK_G - 1) // BLOCK_G
    passed: tl.constexpr = C - len(PARTS) * G
    section = tl.program_id(0) % (SECTIONS * blocks)
    chunk = tl.program_id(0) // (SECTIONS * blocks)
    block = section % blocks
    section = section // blocks
    partial += chunk.to(tl.int64) * (TAPS * G)
    for i in tl.static_range(len(PARTS)):
        row = (section - PARTS[i][3]) * PARTS[i][2]
        if (row >= 0) & (row < PARTS[i][0]):
            _correlate(
                X, D, partial + PARTS[i][4] * G, row,
                chunk, chunks, all_tiles, tiles, block, H, W, C, passed + i * G, G,
                PARTS[i][0], PARTS[i][1], PARTS[i][2], DILATION, CHANNELS_LAST,
                CHANNELS_LAST and PARTS[i][0] > PARTS[i][1], BLOCK_P, BLOCK_G,
            )  # fmt: skip


@triton.jit(do_not_specialize=["chunks"])
def add_up_kernel(
    partial, filters, biases, chunks,
    PARTS: tl.constexpr, TAPS: tl.constexpr, G: tl.constexpr, TAPS_FIRST: tl.constexpr,
    BLOCK_CHUNKS: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Add up the chunks' parts, one program per row of `partial`, into gradients of the weights."""
    r = tl.program_id(0)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    real = c < G
    total = tl.zeros((BLOCK_CHUNKS, BLOCK_C), tl.float32)
    for first in range(0, chunks, BLOCK_CHUNKS):
        chunk = first + tl.arange(0, BLOCK_CHUNKS)
        at = (chunk * (TAPS * G))[:, None] + (r * G + c)[None, :]
        total += tl.load(partial + at, mask=(chunk < chunks)[:, None] & real[None, :], other=0.0)
    value = tl.sum(total, 0)
    for i in tl.static_range(len(PARTS)):
        tap = r - PARTS[i][4]
        if (tap >= 0) & (tap < PARTS[i][0] * PARTS[i][1]):
            place = tap * G + c if TAPS_FIRST else c * (PARTS[i][0] * PARTS[i][1]) + tap
            tl.store(filters[i] + place, value, mask=real)
        if tap == PARTS[i][0] * PARTS[i][1]:
            tl.store(biases[i] + c, value, mask=real)


def bands_weight_grad(
    x: Tensor, grad: Tensor, filters: Sequence[Tensor], biases: Sequence[Tensor], dilation: int
) -> list[Tensor]:
    """`bands.bands_weight_grad` on a CUDA device."""
    grad, x = grad.contiguous(memory_format=memory_format(x)), ordered(x)
    out = empty([*filters, *biases])
    num = len(filters)
    bands = Bands.of(filters, dilation)
    shape = band_grads_shape(x, bands)
    groups, taps = bands.groups, shape["TAPS"]
    tiles = triton.cdiv(x.shape[2] * x.shape[3], shape["BLOCK_P"])
    sections = shape["SECTIONS"] * triton.cdiv(groups, shape["BLOCK_G"])
    all_tiles = tiles * x.shape[0]
    chunks = max(1, min(all_tiles, triton.cdiv(_PROGRAMS, sections)))
    partial = torch.empty((chunks, taps, groups), dtype=torch.float32, device=x.device)
    block = min(64, triton.next_power_of_2(groups))
    with torch.cuda.device_of(x):
        band_grads_kernel[(sections * chunks,)](
            x, grad, partial,
            x.shape[2], x.shape[3], tiles, all_tiles, chunks, **shape,
            **band_grads_options(shape),
        )  # fmt: skip
        add_up_kernel[(taps, triton.cdiv(groups, block))](
            partial, tuple(out[:num]), tuple(out[num:]), chunks,
            PARTS=shape["PARTS"], TAPS=taps, G=groups, TAPS_FIRST=are_taps_first(out[:num]),
            BLOCK_CHUNKS=32, BLOCK_C=block,
        )  # fmt: skip
    return out


def band_grads_options(shape: Mapping[str, Any]) -> dict[str, int]:
    """How `band_grads_kernel` runs; see `tiles.options`."""
    return options(shape, len(shape["PARTS"]), narrow=True)


def band_grads_shape(x: Tensor, bands: Bands) -> dict[str, Any]:
    """The compile-time arguments of `band_grads_kernel`.

    A thread keeps one sum per tap for each of its elements: small tiles, or registers run out.
    """
    shape = tile_shape(x, bands)
    del shape["BLOCK_ID"]
    elements = 1024 if shape["CHANNELS_LAST"] else 512
    shape["BLOCK_P"] = min(shape["BLOCK_P"], elements // shape["BLOCK_G"])
    parts, sections, taps = _parts(bands)
    return {**shape, "PARTS": parts, "SECTIONS": sections, "TAPS": taps}


def _parts(bands: Bands) -> tuple[tuple[tuple[int, ...], ...], int, int]:
    """How bands are divided, how many parts there are, and sums: all taps, and a bias each.

    A band is filter height and width, rows of taps in a part, first part, first sum. Its sums are
    its taps, then its bias.
    """
    parts, sections, taps = [], 0, 0
    for height, width in bands.sizes:
        # A thread keeps one sum per tap.
        rows = height if height * width <= MOST_TAPS.value else 1
        parts.append((height, width, rows, sections, taps))
        sections += height // rows
        taps += height * width + 1
    return tuple(parts), sections, taps
