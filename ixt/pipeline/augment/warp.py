"""Shear, translate and rotate batches of images as Pillow's affine transform does.

Shears and translations move each row (or column) by one distance, so they are resampled along
one axis only; a rotation takes both. Pixels whose source lies outside the frame get the fill
colour; inside, the edge is repeated. Results are truncated, not rounded, as Pillow's are.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from ixt.pipeline.augment.upload import upload
from ixt.pipeline.plan.crop import BICUBIC
from ixt.pipeline.plan.policy.ops import Op

Floats = NDArray[np.float64]

GEOMETRIC = (Op.ROTATE, Op.SHEAR_X, Op.SHEAR_Y, Op.TRANSLATE_X, Op.TRANSLATE_Y)
_VERTICAL = (Op.SHEAR_Y, Op.TRANSLATE_Y)


def warp(images: Tensor, arg: Floats, *, op: int, kernel: int, fill: Tensor) -> Tensor:
    """One geometric operation with one filter on a batch.

    Args:
        images: (n, 3, S, S) uint8, contiguous.
        arg: (n,) arguments, in the unit that Op gives.
        op: one of GEOMETRIC.
        kernel: BILINEAR or BICUBIC.
        fill: (3, 1, 1) uint8, the colour outside the frame.

    Returns:
        (n, 3, S, S) uint8.
    """
    cubic = kernel == BICUBIC
    if op == Op.ROTATE:
        return _rotate(images, arg, cubic, fill)
    shear = np.where(op in (Op.SHEAR_X, Op.SHEAR_Y), np.arange(images.shape[-1]) + 0.5, 1.0)
    distance = arg[:, None] * shear
    if op in _VERTICAL:
        return _transpose(_slide(_transpose(images), distance, cubic, fill))
    return _slide(images, distance, cubic, fill)


def _slide(images: Tensor, distance: Floats, cubic: bool, fill: Tensor) -> Tensor:
    """Take each row's pixel x from x + distance[:, row]; distance is (n, S) pixels."""
    size, device = images.shape[-1], images.device
    whole = np.floor(distance)
    part = upload((distance - whole).astype(np.float32), device)[:, None, :, None]
    taken = (_copied_rows if device.type == "cpu" else _gathered_rows)(images, whole)
    taps = [taken[..., k : k + size].float() for k in (range(4) if cubic else (1, 2))]
    values = _cubic(taps, _cubic_weights(part)) if cubic else _linear(taps[0], taps[1], part)
    # Pillow fills by the source's centre: x + 0.5 + distance outside [0, size).
    start, stop = np.ceil(-0.5 - distance), np.ceil(size - 0.5 - distance)
    bounds = upload(np.stack([start, stop - 1]).clip(-1, size).astype(np.int16), device)
    low, high = bounds[:, :, :, None]
    column = torch.arange(size, dtype=torch.int16, device=device)
    return _finish(values, (column - low).bitwise_or_(high - column), fill)


def _transpose(images: Tensor) -> Tensor:
    """A contiguous copy with rows and columns swapped."""
    if images.device.type == "cpu":
        # numpy turns bytes twice as fast as torch.
        return torch.from_numpy(np.ascontiguousarray(images.numpy().swapaxes(2, 3)))
    return images.mT.contiguous()


def _gathered_rows(images: Tensor, whole: Floats) -> Tensor:
    """(n, 3, S, S + 3) uint8: pixels x - 1 + whole[:, row] on of each row, the edge repeated."""
    size, device = images.shape[-1], images.device
    reach = torch.arange(-1, size + 2, device=device)
    source = reach + upload(whole.astype(np.int64), device)[:, :, None]
    return images.gather(3, source.clamp_(0, size - 1)[:, None].expand(-1, 3, -1, -1))


def _copied_rows(images: Tensor, whole: Floats) -> Tensor:
    """The result of _gathered_rows by copies of runs of pixels, which suits a CPU."""
    size = images.shape[-1]
    # From further out, all pixels are the edge's.
    whole = whole.clip(-size - 2, size + 2)
    before, after = int(max(1 - whole.min(), 0)), int(max(whole.max() + 2, 0))
    wide = images.new_empty(*images.shape[:-1], before + size + after)
    wide[..., :before] = images[..., :1]
    wide[..., before : before + size] = images
    wide[..., before + size :] = images[..., -1:]
    runs = wide.as_strided((wide.numel() - size - 2, size + 3), (1, 1))
    rows = np.arange(len(images) * 3 * size).reshape(-1, 3, size) * wide.shape[-1]
    start = rows + (before - 1 + whole.astype(np.int64))[:, None]
    taken = runs.index_select(0, torch.from_numpy(start.ravel()))
    return taken.view(*images.shape[:-1], size + 3)


def _rotate(images: Tensor, degrees: Floats, cubic: bool, fill: Tensor) -> Tensor:
    """Rotate counter-clockwise about the centre; degrees is (n,)."""
    size = images.shape[-1]
    x, y = _rotated_grid(_rotation(degrees, size), size, images.device)
    x_whole, y_whole = x.floor().short(), y.floor().short()
    margin = (size - 1 - x_whole).bitwise_or_(size - 1 - y_whole)
    margin.bitwise_or_(x_whole).bitwise_or_(y_whole)
    x, y = x.sub_(0.5), y.sub_(0.5)
    column, row = x.floor(), y.floor()
    dx, dy = x.sub_(column).float()[:, None], y.sub_(row).float()[:, None]
    # With two edge pixels repeated around the frame, each tap lies at one distance from the first.
    pitch = size + 4
    padded = pad(images.float(), (2, 2, 2, 2), mode="replicate").flatten(2)
    reach = padded.shape[2] - 3 * pitch - 3
    column, row = column.clamp_(-1, size - 1), row.clamp_(-1, size - 1)
    first = (row.add_(1).mul_(pitch).add_(column).add_(1)).long().flatten(1)
    source = first[:, None].expand(-1, 3, -1)

    def tap(j: int, i: int) -> Tensor:
        return padded.narrow(2, j * pitch + i, reach).gather(2, source).view(images.shape)

    if cubic:
        across, down = _cubic_weights(dx), _cubic_weights(dy)
        lines = [_cubic([tap(j, i) for i in range(4)], across) for j in range(4)]
        values = _cubic(lines, down)
    else:
        upper, lower = (_linear(tap(j, 1), tap(j, 2), dx) for j in (1, 2))
        values = _linear(upper, lower, dy)
    return _finish(values, margin, fill)


def _rotation(degrees: Floats, size: int) -> Floats:
    """(n, 4): cosine, sine, and the source x and y of the result's corner."""
    angle = -np.radians(np.mod(degrees, 360.0))
    # Pillow rounds so that right angles come out exact.
    cos, sin = np.round(np.cos(angle), 15), np.round(np.sin(angle), 15)
    half = size / 2
    x_start, y_start = -half * cos - half * sin + half, half * sin - half * cos + half
    return np.stack([cos, sin, x_start, y_start], axis=1)


def _rotated_grid(terms: Floats, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(n, S, S) float64 source coordinates x and y of each pixel's centre."""
    cos_t, sin_t, x_start_t, y_start_t = upload(terms.T, device)[:, :, None, None]
    centre = torch.arange(size, dtype=torch.float64, device=device) + 0.5
    across, down = centre, centre[:, None]
    x = cos_t * across + sin_t * down + x_start_t
    y = -sin_t * across + cos_t * down + y_start_t
    return x, y


def _linear(near: Tensor, far: Tensor, part: Tensor) -> Tensor:
    """Interpolate two taps, whose memory is overwritten."""
    return far.sub_(near).mul_(part).add_(near)


def _cubic_weights(part: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights of the first, third and fourth tap relative to the second.

    The Keys kernel with a = -1, which Pillow's transforms use; its resize has a = -0.5.
    """
    square = part * part
    cube = square * part
    return 2 * square - part - cube, part + square - cube, cube - square


def _cubic(taps: list[Tensor], weights: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Interpolate four taps as near + weighted differences, exact where equal; spends them.

    In place: fresh memory for every step would cost a CPU more than the arithmetic.
    """
    first, near, third, fourth = taps
    for tap, weight in zip((first, third, fourth), weights, strict=True):
        tap.sub_(near).mul_(weight)
    return first.add_(third).add_(fourth).add_(near)


def _finish(values: Tensor, margin: Tensor, fill: Tensor) -> Tensor:
    """(n, 3, S, S) uint8: values truncated and clamped, the fill colour where the margin says so.

    Args:
        values: (n, 3, S, S) float32; spent.
        margin: (n, S, S) int16, negative outside of the frame; spent.
        fill: (3, 1, 1) uint8.

    By way of int16 and products with a mask from the sign bit: several times faster on a CPU
    than a direct conversion, comparisons and torch.where.
    """
    kept = margin.bitwise_right_shift_(15).add_(1).to(torch.uint8)[:, None]
    truncated = values.clamp_(0, 255).short().to(torch.uint8)
    return truncated.mul_(kept).add_((1 - kept) * fill)
