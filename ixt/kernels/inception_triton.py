"""The Inception mixer in Triton: identity, square, row and column branch in one launch.

One program computes one tile: some pixels of one image times some channels of one branch, or
copies a tile of the channels that pass through. Programs of a tile's branches are neighbours in
the grid, so that the memory sectors which branches share come from the L2 cache. Sums are kept in
fp32, in an order that does not depend on the device, so results are the same bits in every run.

With TRITON_INTERPRET=1 in the environment before this module is imported, the same code runs on
CPU tensors. `ops.py` makes operators of these functions.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-untyped-call"
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

# Programs that keep a large device busy (8 on each of 132 multiprocessors). A constant, so that
# weight gradients are added up in the same order on every device.
_WEIGHT_GRAD_PROGRAMS = 1056


@dataclass(frozen=True)
class Weights:
    """Filters and biases of the three branches, as `torch.nn.Conv2d` keeps them."""

    square: Tensor
    """(G, 1, S, S)."""
    row: Tensor
    """(G, 1, 1, B)."""
    column: Tensor
    """(G, 1, B, 1)."""
    square_bias: Tensor | None = None
    """(G,); None of all three for a data gradient."""
    row_bias: Tensor | None = None
    column_bias: Tensor | None = None


@triton.jit
def _positions(p, H, W, COLUMNS: tl.constexpr):
    """Row and column of pixels, counted along columns or along rows."""
    if COLUMNS:
        h, w = p % H, p // H
    else:
        h, w = p // W, p % W
    return h, w


@triton.jit
def _offsets(h, w, c, H, W, C: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """Elements from an image's start to pixels (P,) and channels (K,): (P, K)."""
    if CHANNELS_LAST:
        at = ((h * W + w) * C)[:, None] + c[None, :]
    else:
        at = (h * W + w)[:, None] + (c * (H * W))[None, :]
    return at


@triton.jit
def _copy_tile(
    X, Y, tile, block, H, W,
    C: tl.constexpr, COUNT: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    p = tile * BLOCK_P + tl.arange(0, BLOCK_P)
    c = block * BLOCK_C + tl.arange(0, BLOCK_C)
    # Pixels stay in one line: no row and column is needed, and vectors may cross rows.
    at = _offsets(0, p, c, H, W, C, CHANNELS_LAST)
    inside = (p < H * W)[:, None] & (c < COUNT)[None, :]
    tl.store(Y + at, tl.load(X + at, mask=inside), mask=inside)


@triton.jit
def _convolve_tile(
    X, Y, weight, bias, tile, block, H, W,
    C: tl.constexpr, FIRST: tl.constexpr, G: tl.constexpr,
    KH: tl.constexpr, KW: tl.constexpr, DILATION: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, BACKWARD: tl.constexpr, COLUMNS: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    p = tile * BLOCK_P + tl.arange(0, BLOCK_P)
    h, w = _positions(p, H, W, COLUMNS)
    c = block * BLOCK_C + tl.arange(0, BLOCK_C)
    real = c < G
    total = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for i in tl.static_range(KH * KW):
        hh = h + (i // KW - KH // 2) * DILATION
        ww = w + (i % KW - KW // 2) * DILATION
        inside = (hh >= 0) & (hh < H) & (ww >= 0) & (ww < W)
        at = _offsets(hh, ww, FIRST + c, H, W, C, CHANNELS_LAST)
        x = tl.load(X + at, mask=inside[:, None] & real[None, :], other=0.0)
        # The gradient of a convolution is one with its taps in reverse.
        tap = KH * KW - 1 - i if BACKWARD else i
        k = tl.load(weight + c * (KH * KW) + tap, mask=real, other=0.0)
        total += x.to(tl.float32) * k.to(tl.float32)[None, :]
    if not BACKWARD:
        total += tl.load(bias + c, mask=real, other=0.0).to(tl.float32)[None, :]
    at = _offsets(h, w, FIRST + c, H, W, C, CHANNELS_LAST)
    tl.store(Y + at, total.to(Y.dtype.element_ty), mask=(p < H * W)[:, None] & real[None, :])


@triton.jit(do_not_specialize=["tiles"])
def mix_kernel(
    X, Y, square, row, column, square_bias, row_bias, column_bias,
    H, W, tiles,
    C: tl.constexpr, G: tl.constexpr, S: tl.constexpr, B: tl.constexpr, DILATION: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, BACKWARD: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_ID: tl.constexpr, BLOCK_G: tl.constexpr,
):  # fmt: skip
    """Y = mixer(X), or with BACKWARD the gradient of the input; see `mix`."""
    passed: tl.constexpr = C - 3 * G
    id_blocks: tl.constexpr = (passed + BLOCK_ID - 1) // BLOCK_ID
    blocks: tl.constexpr = (G + BLOCK_G - 1) // BLOCK_G
    sections: tl.constexpr = id_blocks + 3 * blocks
    section = tl.program_id(0) % sections
    tile = tl.program_id(0) // sections
    image = (tile // tiles).to(tl.int64) * (C * H * W)
    tile = tile % tiles
    X += image
    Y += image
    if section < id_blocks:
        _copy_tile(X, Y, tile, section, H, W, C, passed, CHANNELS_LAST, BLOCK_P, BLOCK_ID)
    elif section < id_blocks + blocks:
        _convolve_tile(
            X, Y, square, square_bias, tile, section - id_blocks, H, W, C, passed, G,
            S, S, DILATION, CHANNELS_LAST, BACKWARD, False, BLOCK_P, BLOCK_G,
        )  # fmt: skip
    elif section < id_blocks + 2 * blocks:
        _convolve_tile(
            X, Y, row, row_bias, tile, section - id_blocks - blocks, H, W, C, passed + G, G,
            1, B, DILATION, CHANNELS_LAST, BACKWARD, False, BLOCK_P, BLOCK_G,
        )  # fmt: skip
    else:
        # Walking down columns, a tile finds its neighbours above and below in its own L1 cache.
        # In NCHW it would read single elements of different sectors.
        _convolve_tile(
            X, Y, column, column_bias, tile, section - id_blocks - 2 * blocks, H, W, C,
            passed + 2 * G, G, B, 1, DILATION, CHANNELS_LAST, BACKWARD, CHANNELS_LAST,
            BLOCK_P, BLOCK_G,
        )  # fmt: skip


@triton.jit
def _correlate(
    X, D, partial, start, step, end, tiles, block, H, W,
    C: tl.constexpr, FIRST: tl.constexpr, G: tl.constexpr,
    KH: tl.constexpr, KW: tl.constexpr, DILATION: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, COLUMNS: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Sums over some tiles: gradient x shifted input for each tap, then the gradient itself."""
    c = block * BLOCK_C + tl.arange(0, BLOCK_C)
    real = c < G
    zero = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    sums = (zero,) * (KH * KW)
    bias = zero
    for tile in range(start, end, step):
        p = (tile % tiles) * BLOCK_P + tl.arange(0, BLOCK_P)
        image = (tile // tiles).to(tl.int64) * (C * H * W)
        h, w = _positions(p, H, W, COLUMNS)
        at = _offsets(h, w, FIRST + c, H, W, C, CHANNELS_LAST)
        mine = (p < H * W)[:, None] & real[None, :]
        d = tl.load(D + image + at, mask=mine, other=0.0).to(tl.float32)
        bias += d
        for i in tl.static_range(KH * KW):
            hh = h + (i // KW - KH // 2) * DILATION
            ww = w + (i % KW - KW // 2) * DILATION
            inside = (hh >= 0) & (hh < H) & (ww >= 0) & (ww < W)
            at = _offsets(hh, ww, FIRST + c, H, W, C, CHANNELS_LAST)
            x = tl.load(X + image + at, mask=inside[:, None] & mine, other=0.0)
            # Triton knows no unpacking.
            sums = sums[:i] + (sums[i] + d * x.to(tl.float32),) + sums[i + 1 :]  # noqa: RUF005
    for i in tl.static_range(KH * KW):
        tl.store(partial + i * G + c, tl.sum(sums[i], 0), mask=real)
    tl.store(partial + KH * KW * G + c, tl.sum(bias, 0), mask=real)


@triton.jit(do_not_specialize=["tiles", "all_tiles", "chunks"])
def weight_grad_kernel(
    X, D, partial, H, W, tiles, all_tiles, chunks,
    C: tl.constexpr, G: tl.constexpr, S: tl.constexpr, B: tl.constexpr, DILATION: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_G: tl.constexpr,
):  # fmt: skip
    """Each chunk's part of the weight gradients: partial is (chunks, rows, G) in fp32.

    Its rows are the taps and the bias of the square branch, of the row branch, of the column one.
    """
    blocks: tl.constexpr = (G + BLOCK_G - 1) // BLOCK_G
    rows: tl.constexpr = S * S + 2 * B + 3
    passed: tl.constexpr = C - 3 * G
    section = tl.program_id(0) % (3 * blocks)
    chunk = tl.program_id(0) // (3 * blocks)
    block = section % blocks
    partial += chunk.to(tl.int64) * (rows * G)
    if section < blocks:
        _correlate(
            X, D, partial, chunk, chunks, all_tiles, tiles, block, H, W, C, passed, G,
            S, S, DILATION, CHANNELS_LAST, False, BLOCK_P, BLOCK_G,
        )  # fmt: skip
    elif section < 2 * blocks:
        _correlate(
            X, D, partial + (S * S + 1) * G, chunk, chunks, all_tiles, tiles, block, H, W, C,
            passed + G, G, 1, B, DILATION, CHANNELS_LAST, False, BLOCK_P, BLOCK_G,
        )  # fmt: skip
    else:
        _correlate(
            X, D, partial + (S * S + B + 2) * G, chunk, chunks, all_tiles, tiles, block, H, W, C,
            passed + 2 * G, G, B, 1, DILATION, CHANNELS_LAST, CHANNELS_LAST, BLOCK_P, BLOCK_G,
        )  # fmt: skip


@triton.jit(do_not_specialize=["chunks"])
def add_up_kernel(
    partial, square, square_bias, row, row_bias, column, column_bias, chunks,
    G: tl.constexpr, S: tl.constexpr, B: tl.constexpr,
    BLOCK_CHUNKS: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Add up the chunks' parts, one program per row of `partial`, into gradients of the weights."""
    r = tl.program_id(0)
    rows: tl.constexpr = S * S + 2 * B + 3
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    real = c < G
    total = tl.zeros((BLOCK_CHUNKS, BLOCK_C), tl.float32)
    for first in range(0, chunks, BLOCK_CHUNKS):
        chunk = first + tl.arange(0, BLOCK_CHUNKS)
        at = (chunk * (rows * G))[:, None] + (r * G + c)[None, :]
        total += tl.load(partial + at, mask=(chunk < chunks)[:, None] & real[None, :], other=0.0)
    value = tl.sum(total, 0)
    row_start: tl.constexpr = S * S + 1
    column_start: tl.constexpr = S * S + B + 2
    if r < S * S:
        tl.store(square + c * (S * S) + r, value, mask=real)
    elif r == S * S:
        tl.store(square_bias + c, value, mask=real)
    elif r < row_start + B:
        tl.store(row + c * B + (r - row_start), value, mask=real)
    elif r == row_start + B:
        tl.store(row_bias + c, value, mask=real)
    elif r < column_start + B:
        tl.store(column + c * B + (r - column_start), value, mask=real)
    else:
        tl.store(column_bias + c, value, mask=real)


def mix(x: Tensor, y: Tensor, weights: Weights, dilation: int = 1, backward: bool = False) -> None:
    """Write the mixer's output, or the gradient of its input, into y.

    Args:
        x: (N, C, H, W), contiguous in NCHW or in NHWC; with `backward` the output's gradient.
        y: like x, of the same strides and type.
        weights: contiguous, of any floating type, with biases unless `backward`.
        dilation: distance of neighbouring taps, in pixels.
        backward: compute the input's gradient.
    """
    if not x.numel():
        return
    shape = mix_shape(x, weights, dilation)
    sections = triton.cdiv(shape["C"] - 3 * shape["G"], shape["BLOCK_ID"])
    sections += 3 * triton.cdiv(shape["G"], shape["BLOCK_G"])
    tiles = triton.cdiv(x.shape[2] * x.shape[3], shape["BLOCK_P"])
    # A data gradient reads no bias; any pointer will do.
    biases = (weights.square_bias, weights.row_bias, weights.column_bias)
    filters = (weights.square, weights.row, weights.column)
    with torch.cuda.device_of(x):
        mix_kernel[(sections * tiles * x.shape[0],)](
            x, y, *filters, *(filters if backward else biases),
            x.shape[2], x.shape[3], tiles, **shape, BACKWARD=backward,
        )  # fmt: skip


def weight_grads(x: Tensor, grad: Tensor, grads: Weights, dilation: int = 1) -> None:
    """Write the gradients of filters and biases.

    Args:
        x: (N, C, H, W), the mixer's input, contiguous in NCHW or in NHWC.
        grad: gradient of its output, of the same strides; the type may differ.
        grads: what is written: contiguous, with biases.
        dilation: as in `mix`.
    """
    shape = weight_grad_shape(x, grads, dilation)
    groups, square, band = shape["G"], shape["S"], shape["B"]
    tiles = triton.cdiv(x.shape[2] * x.shape[3], shape["BLOCK_P"])
    sections = 3 * triton.cdiv(groups, shape["BLOCK_G"])
    all_tiles = tiles * x.shape[0]
    chunks = max(1, min(all_tiles, triton.cdiv(_WEIGHT_GRAD_PROGRAMS, sections)))
    rows = square * square + 2 * band + 3
    partial = torch.empty((chunks, rows, groups), dtype=torch.float32, device=x.device)
    outputs = (
        grads.square, grads.square_bias, grads.row, grads.row_bias, grads.column, grads.column_bias
    )  # fmt: skip
    block = min(64, triton.next_power_of_2(groups))
    with torch.cuda.device_of(x):
        weight_grad_kernel[(sections * chunks,)](
            x, grad, partial, x.shape[2], x.shape[3], tiles, all_tiles, chunks, **shape
        )
        add_up_kernel[(rows, triton.cdiv(groups, block))](
            partial, *outputs, chunks, G=groups, S=square, B=band, BLOCK_CHUNKS=32, BLOCK_C=block
        )


def mix_shape(x: Tensor, weights: Weights, dilation: int) -> dict[str, Any]:
    """The compile-time arguments that the kernels share: sizes, memory order, tiles.

    Args:
        x: (N, C, H, W), contiguous in NCHW or in NHWC.
        weights: of the mixer.
        dilation: as in `mix`.
    """
    channels, groups = x.shape[1], weights.square.shape[0]
    # Where both orders hold, as with one pixel or one channel, they are the same.
    last = not x.is_contiguous()
    shape = {
        "C": channels,
        "G": groups,
        "S": weights.square.shape[-1],
        "B": weights.row.shape[-1],
        "DILATION": dilation,
        "CHANNELS_LAST": last,
    }
    if last:
        tiles = {
            "BLOCK_P": 64,
            "BLOCK_ID": _channel_block(channels - 3 * groups, 128),
            "BLOCK_G": _channel_block(groups, 32),
        }
    else:
        # A plane is contiguous: long tiles of it, so that rows above and below are cached.
        pixels = triton.next_power_of_2(x.shape[2] * x.shape[3])
        tiles = {"BLOCK_P": max(16, min(1024, pixels)), "BLOCK_ID": 1, "BLOCK_G": 1}
    return {**shape, **tiles}


def weight_grad_shape(x: Tensor, weights: Weights, dilation: int) -> dict[str, Any]:
    """The compile-time arguments of `weight_grad_kernel`.

    A thread keeps one sum per tap for each of its elements: small tiles, or registers run out.

    Args:
        x: as in `mix_shape`.
        weights: as in `mix_shape`.
        dilation: as in `mix`.
    """
    shape = mix_shape(x, weights, dilation)
    del shape["BLOCK_ID"]
    elements = 1024 if shape["CHANNELS_LAST"] else 512
    shape["BLOCK_P"] = min(shape["BLOCK_P"], elements // shape["BLOCK_G"])
    return shape


def _channel_block(count: int, largest: int) -> int:
    """Channels of a tile in NHWC: the largest power of two that leaves few lanes idle."""
    sizes = [size for size in (128, 64, 32, 16) if size <= largest]
    use = {size: count / (triton.cdiv(count, size) * size) for size in sizes if count}
    good = [size for size, share in use.items() if share >= 0.8]
    return max(good) if good else max(use, key=lambda size: (use[size], size), default=16)
