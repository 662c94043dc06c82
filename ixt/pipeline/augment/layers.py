"""A table's operations on batches of images, grey level for grey level as Pillow does them.

Carries out what `pipeline.plan.policy` drew, on the images' device. A row's result does not depend
on the other rows of its batch. Only multiplications and additions that round by themselves are used
(no lerp or addcmul), because fused ones give other last bits at other places of a batch.
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

from ixt.pipeline.augment.blur import gaussian_blur, kernel_blur
from ixt.pipeline.augment.chunks import rows_at_once
from ixt.pipeline.augment.colour import color, contrast, hue, sharpness
from ixt.pipeline.augment.levels import (
    LOOKUPS,
    brightness,
    invert,
    look_up,
    lookup_tables,
    posterize,
    solarize,
    solarize_add,
)
from ixt.pipeline.augment.upload import upload
from ixt.pipeline.augment.warp import GEOMETRIC, warp
from ixt.pipeline.plan.crop import BICUBIC, BILINEAR
from ixt.pipeline.plan.policy.ops import Op, OpTable

Floats = NDArray[np.float64]
Codes = NDArray[np.uint8]
Rows = NDArray[np.int64]

_WHOLE = {
    Op.INVERT: invert,
    Op.POSTERIZE: posterize,
    Op.SOLARIZE: solarize,
    Op.SOLARIZE_ADD: solarize_add,
    Op.BRIGHTNESS: brightness,
    Op.CONTRAST: contrast,
    Op.COLOR: color,
    Op.SHARPNESS: sharpness,
    Op.HUE: hue,
    Op.GAUSSIAN_BLUR: gaussian_blur,
    Op.KERNEL_BLUR: kernel_blur,
}


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
    images = _planes(images)
    colour = upload(np.array(fill, dtype=np.uint8), images.device).view(3, 1, 1)
    for layer in range(table.op.shape[1]):
        _apply_layer(
            images, table.op[:, layer], table.arg[:, layer], table.filter[:, layer], colour
        )
    return images


def _planes(images: Tensor) -> Tensor:
    """A contiguous copy."""
    if images.device.type == "cpu":
        # numpy takes interleaved pixels apart four times faster than torch.
        return torch.from_numpy(np.array(images.numpy(), order="C"))
    return images.clone(memory_format=torch.contiguous_format)


def _apply_layer(images: Tensor, op: Codes, arg: Floats, kernel: Codes, colour: Tensor) -> None:
    """One operation on each image, in place."""
    rows = np.flatnonzero(np.isin(op, LOOKUPS))
    if len(rows):
        _apply(images, rows, look_up, lookup_tables(images, rows, op[rows], arg[rows]))
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
        index = upload(rows[part], images.device)
        _put(images, rows[part], index, function(images.index_select(0, index), args[part]))


def _put(images: Tensor, rows: Rows, index: Tensor, values: Tensor) -> None:
    """Set images[index] = values; index holds the rows on the images' device."""
    if images.device.type == "cpu":
        # index_copy_ goes element by element on a CPU; whole rows go twenty times faster.
        for row, value in zip(rows.tolist(), values, strict=True):
            images[row].copy_(value)
    else:
        images.index_copy_(0, index, values)
