"""RandAugment's operations on batches of images, grey level for grey level as Pillow does them.

Carries out what `policy` drew, on the images' device. A row's result does not depend on the other
rows of its batch. Only multiplications and additions that round by themselves are used (no lerp
or addcmul), because fused ones give other last bits at other places of a batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ixt.data.crop import BICUBIC, BILINEAR
from ixt.data.policy import Op, OpTable
from ixt.data.warp import GEOMETRIC, warp

Floats = NDArray[np.float64]
Codes = NDArray[np.uint8]
Rows = NDArray[np.int64]

# Two images of 224 px: their float32 values still fit a CPU core's cache.
_CPU_PIXELS = 2 * 224 * 224

_LOOKUPS = (
    Op.AUTOCONTRAST,
    Op.EQUALIZE,
    Op.INVERT,
    Op.POSTERIZE,
    Op.SOLARIZE,
    Op.SOLARIZE_ADD,
    Op.BRIGHTNESS,
    Op.CONTRAST,
)


def normalise(
    images: Tensor, mean: tuple[float, float, float], std: tuple[float, float, float]
) -> Tensor:
    """Subtract 255 * mean and divide by 255 * std, per channel; the memory order is kept.

    Args:
        images: (B, 3, S, S) uint8.
        mean: per-channel mean of values scaled to [0, 1].
        std: per-channel standard deviation, likewise.

    Returns:
        (B, 3, S, S) float32, a new tensor.

    Source: PrefetchLoader of timm 1.0.31, to the last bit.
    """
    # As whole images in the batch's memory order: broadcasting three numbers over channels_last
    # would leave a CPU with loops of length three.
    like = torch.empty_like(images[:1], dtype=torch.float32)
    shift, spread = (
        like.clone().copy_(torch.tensor([255 * value for value in triple]).view(3, 1, 1))
        for triple in (mean, std)
    )
    result = torch.empty_like(images, dtype=torch.float32)
    size = rows_at_once(images)
    for part, source in zip(torch.split(result, size), torch.split(images, size), strict=True):
        part.copy_(source).sub_(shift).div_(spread)
    return result


def rows_at_once(images: Tensor) -> int:
    """How many images to work on at once: a cacheful on a CPU, all of them on a GPU."""
    if images.device.type != "cpu":
        return max(len(images), 1)
    return max(1, _CPU_PIXELS // (images.shape[-2] * images.shape[-1]))


def apply_policy(images: Tensor, table: OpTable, fill: tuple[int, ...]) -> Tensor:
    """Carry out each image's operations, layer by layer.

    Args:
        images: (B, 3, S, S) uint8, on any device, in any memory order; left as it is.
        table: one row per image.
        fill: three grey levels for what a geometric operation moves in from outside.

    Returns:
        (B, 3, S, S) uint8, contiguous; the images themselves where no operation applies.

    Raises:
        ValueError: the table's length is not the batch's.
    """
    if len(table) != len(images):
        raise ValueError(f"{len(table)} rows of operations for {len(images)} images")
    if not table.op.any():
        return images
    images = images.clone(memory_format=torch.contiguous_format)
    colour = torch.tensor(fill, dtype=torch.uint8).view(3, 1, 1).to(images.device)
    for layer in range(table.op.shape[1]):
        _apply_layer(
            images, table.op[:, layer], table.arg[:, layer], table.filter[:, layer], colour
        )
    return images


def _apply_layer(images: Tensor, op: Codes, arg: Floats, kernel: Codes, colour: Tensor) -> None:
    """One operation on each image, in place."""
    rows = np.flatnonzero(np.isin(op, _LOOKUPS))
    if len(rows):
        _apply(images, rows, _look_up, _luts(images, rows, op[rows], arg[rows]))
    for code, function in _WHOLE.items():
        rows = np.flatnonzero(op == code)
        _apply(images, rows, function, arg[rows])
    for code, k in itertools.product(GEOMETRIC, (BILINEAR, BICUBIC)):
        rows = np.flatnonzero((op == code) & (kernel == k))
        _apply(images, rows, partial(warp, op=code, kernel=k, fill=colour), arg[rows])


def _apply(
    images: Tensor, rows: Rows, function: Callable[[Tensor, Any], Tensor], args: Floats | Tensor
) -> None:
    """Replace images[rows] by function(images[rows], args), a few rows at a time."""
    size = rows_at_once(images)
    for start in range(0, len(rows), size):
        part = slice(start, start + size)
        index = torch.from_numpy(rows[part]).to(images.device, non_blocking=True)
        _put(images, rows[part], index, function(images.index_select(0, index), args[part]))


def _put(images: Tensor, rows: Rows, index: Tensor, values: Tensor) -> None:
    """Set images[index] = values; index holds the rows on the images' device."""
    if images.device.type == "cpu":
        # index_copy_ goes element by element on a CPU; whole rows go twenty times faster.
        for row, value in zip(rows.tolist(), values, strict=True):
            images[row].copy_(value)
    else:
        images.index_copy_(0, index, values)


def _luts(images: Tensor, rows: Rows, op: Codes, arg: Floats) -> Tensor:
    """(n, 3, 256) uint8 tables from grey level to grey level for these rows of the images."""
    luts = torch.from_numpy(_fixed_luts(op, arg)).to(images.device)
    luts = luts[:, None].repeat(1, 3, 1)
    for code, function in _MEASURED_LUTS.items():
        places = np.flatnonzero(op == code)
        if len(places):
            taken = images.index_select(0, torch.from_numpy(rows[places]).to(images.device))
            index = torch.from_numpy(places).to(images.device)
            luts.index_copy_(0, index, function(taken, arg[places]))
    return luts


def _look_up(images: Tensor, luts: Tensor) -> Tensor:
    return luts.gather(2, images.flatten(2).long()).view(images.shape)


def _fixed_luts(op: Codes, arg: Floats) -> NDArray[np.uint8]:
    """(n, 256) tables of the operations that need not look at the image; others get zeros."""
    level = np.arange(256)
    argument = arg[:, None]
    whole = argument.astype(np.int64)
    code = op[:, None]
    luts = np.zeros((len(op), 256), np.int64)
    np.copyto(luts, 255 - level, where=code == Op.INVERT)
    np.copyto(luts, level & -(1 << np.maximum(8 - whole, 0)), where=code == Op.POSTERIZE)
    np.copyto(luts, np.where(level < whole, level, 255 - level), where=code == Op.SOLARIZE)
    added = np.where(level < 128, np.minimum(level + whole, 255), level)
    np.copyto(luts, added, where=code == Op.SOLARIZE_ADD)
    # float32, as Pillow's blend computes.
    bright = np.clip(level.astype(np.float32) * argument.astype(np.float32), 0, 255)
    np.copyto(luts, bright.astype(np.int64), where=code == Op.BRIGHTNESS)
    return luts.astype(np.uint8)


def _autocontrast_luts(images: Tensor, arg: Floats) -> Tensor:
    """(n, 3, 256) tables that stretch each channel to 0..255; float64, as Python computes."""
    flat = images.flatten(2)
    low, high = flat.amin(2, keepdim=True).double(), flat.amax(2, keepdim=True).double()
    level = torch.arange(256, dtype=torch.float64, device=images.device)
    # A true division: torch computes number / tensor as number * reciprocal.
    scale = torch.full_like(low, 255.0) / (high - low).clamp_min(1.0)
    stretched = (level * scale + -low * scale).clamp_(0, 255)
    return torch.where(high > low, stretched, level).to(torch.uint8)


def _contrast_luts(images: Tensor, arg: Floats) -> Tensor:
    """(n, 3, 256) tables that blend with the mean of the image's luma."""
    luma = _luma(images).flatten(1)
    # A float64 sum of whole numbers is exact in any order.
    mean = (luma.sum(1, dtype=torch.float64) / luma.shape[1] + 0.5).floor().float()
    level = torch.arange(256, dtype=torch.float32, device=images.device)
    luts = _blend(mean[:, None, None], level, _factors(arg, images)[:, :, :, 0])
    return luts.expand(-1, 3, -1)


def _equalize_luts(images: Tensor, arg: Floats) -> Tensor:
    """(n, 3, 256) tables that even out each channel's histogram."""
    counts = _histograms(images)
    level = torch.arange(256, device=images.device)
    last = (level * (counts > 0)).amax(2, keepdim=True)
    step = (counts.sum(2, keepdim=True) - counts.gather(2, last)) // 255
    below = counts.cumsum(2) - counts
    spread = ((step // 2 + below) // step.clamp_min(1)).clamp_(max=255)
    return torch.where(step > 0, spread, level).to(torch.uint8)


def _histograms(images: Tensor) -> Tensor:
    """(n, 3, 256) int64 counts of each channel's grey levels."""
    if images.device.type == "cpu":
        planes = images.flatten(2).flatten(0, 1)
        counts = torch.stack([torch.bincount(plane, minlength=256) for plane in planes])
        return counts.view(-1, 3, 256)
    return _scattered_histograms(images)


def _scattered_histograms(images: Tensor) -> Tensor:
    """As _histograms; slow on a CPU, but never waits for a GPU, as bincount does."""
    levels = images.flatten(2).long()
    counts = torch.zeros(*levels.shape[:2], 256, dtype=torch.int64, device=images.device)
    return counts.scatter_add_(2, levels, torch.ones_like(levels))


def _color(images: Tensor, arg: Floats) -> Tensor:
    """Blend with the luma: grey at 0, unchanged at 1."""
    return _blend(_luma(images)[:, None], images.float(), _factors(arg, images))


def _sharpness(images: Tensor, arg: Floats) -> Tensor:
    """Blend with a smoothed image: smooth at 0, unchanged at 1; the outermost pixels stay."""
    wide = images.short()
    across = wide[..., :-2] + wide[..., 1:-1] + wide[..., 2:]
    total = across[:, :, :-2] + across[:, :, 1:-1] + across[:, :, 2:]
    inner = wide[:, :, 1:-1, 1:-1]
    # total / 13, rounded; never near a half, so float32 rounds it right.
    smooth = total.add_(4 * inner).float().add_(6.5).mul_(1 / 13).floor_()
    result = images.clone()
    result[:, :, 1:-1, 1:-1] = _blend(smooth, inner.float(), _factors(arg, images))
    return result


def _gaussian_blur(images: Tensor, arg: Floats) -> Tensor:
    """Pillow's approximation: three box blurs along each axis, with fractional radius."""
    weights = torch.from_numpy(_box_weights(arg)).to(images.device)[:, :, None, None, None]
    result = images.double()
    for _ in range(2):
        for _ in range(3):
            wide = torch.nn.functional.pad(result, (2, 2, 0, 0), mode="replicate")
            a, b, c, d, e = (wide[..., k : k + images.shape[-1]] for k in range(5))
            total = c * weights[:, 0] + (b + d) * weights[:, 1] + (a + e) * weights[:, 2]
            # 24-bit fixed point, as Pillow computes; whole numbers below 2**53, so exact.
            result = total.add_(2**23).mul_(2.0**-24).floor_()
        result = result.mT
    return result.to(torch.uint8)


def _box_weights(sigma: Floats) -> Floats:
    """(n, 3) weights of a box blur's centre, first and second neighbours, times 2**24.

    float32 where Pillow's _gaussian_blur_radius and ImagingHorizontalBoxBlur use it; holds for
    sigma up to 2.4, where the box grows wider than five pixels.
    """
    variance = (sigma.astype(np.float32) ** 2 / np.float32(3)).astype(np.float32)
    length = np.sqrt(12.0 * variance.astype(np.float64) + 1.0).astype(np.float32)
    whole = np.floor((length - 1) / 2).astype(np.float32)
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance)
    part = part / (6 * (variance - (whole + 1) * (whole + 1)))
    radius = (whole + part).astype(np.float32)
    full = np.floor(np.float32(2**24) / (radius * 2 + 1)).astype(np.int64)
    taps = np.floor(radius).astype(np.int64)
    edge = (2**24 - (taps * 2 + 1) * full) // 2
    first = np.where(taps == 0, edge, full)
    second = np.where(taps == 0, 0, edge)
    return np.stack([full, first, second], axis=1).astype(np.float64)


def _luma(images: Tensor) -> Tensor:
    """(n, S, S) float32 of whole numbers: Pillow's 16-bit fixed point, exact in float32."""
    red, green, blue = images.unbind(1)
    scaled = (red * 19595.0).add_(green * 38470.0).add_(blue * 7471.0).add_(32768.0)
    return scaled.mul_(2.0**-16).floor_()


def _factors(arg: Floats, images: Tensor) -> Tensor:
    """(n, 1, 1, 1) float32 arguments on the images' device."""
    return torch.from_numpy(arg.astype(np.float32)).to(images.device)[:, None, None, None]


def _blend(base: Tensor, images: Tensor, factor: Tensor) -> Tensor:
    """Uint8 of base + factor * (images - base), clipped and truncated as Pillow's blend does."""
    mixed = (images - base).mul_(factor).add_(base).clamp_(0, 255)
    # By way of int16, which a CPU converts three times faster.
    return mixed.short().to(torch.uint8)


_MEASURED_LUTS = {
    Op.AUTOCONTRAST: _autocontrast_luts,
    Op.CONTRAST: _contrast_luts,
    Op.EQUALIZE: _equalize_luts,
}
_WHOLE = {Op.COLOR: _color, Op.SHARPNESS: _sharpness, Op.GAUSSIAN_BLUR: _gaussian_blur}
