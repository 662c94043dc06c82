"""Operations that replace each grey level by another one: always, or by what the image says."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ixt.pipeline.augment.colour import blend, factors
from ixt.pipeline.augment.upload import upload
from ixt.pipeline.plan.policy.ops import Op

Floats = NDArray[np.float64]


LOOKUPS = (Op.AUTOCONTRAST, Op.EQUALIZE)


def invert(images: Tensor, arg: Floats) -> Tensor:
    """The negative."""
    return 255 - images


def posterize(images: Tensor, arg: Floats) -> Tensor:
    """Keep the arg highest bits."""
    lost = np.maximum(8 - arg.astype(np.int64), 0)
    return images & _per_image(0xFF & -(1 << lost), images)


def solarize(images: Tensor, arg: Floats) -> Tensor:
    """Invert from arg on; 256 leaves all."""
    threshold = upload(np.trunc(arg).astype(np.int16), images.device)
    # The sign of the distance, all ones or all zeros: a CPU compares bytes ten times slower.
    below = images.short().sub_(threshold[:, None, None, None]).bitwise_right_shift_(15)
    return below.bitwise_not_().to(torch.uint8).bitwise_xor_(images)


def solarize_add(images: Tensor, arg: Floats) -> Tensor:
    """Add arg, at most 128, to the dark half."""
    dark = (images >> 7).bitwise_xor_(1)
    return dark.mul_(_per_image(np.trunc(arg), images)).add_(images)


def brightness(images: Tensor, arg: Floats) -> Tensor:
    """Blend with black."""
    return blend(torch.zeros((), device=images.device), images.float(), factors(arg, images))


def _per_image(values: NDArray[Any], images: Tensor) -> Tensor:
    """(n, 1, 1, 1) uint8 on the images' device."""
    return upload(values.astype(np.uint8), images.device)[:, None, None, None]


def lookup_tables(
    images: Tensor, rows: NDArray[np.int64], op: NDArray[np.uint8], arg: Floats
) -> Tensor:
    """(n, 3, 256) uint8 tables from grey level to grey level for these rows of the images.

    Args:
        images: (B, 3, S, S) uint8.
        rows: (n,) numbers of images.
        op: (n,) members of LOOKUPS.
        arg: (n,) their arguments.
    """
    luts = torch.empty(len(rows), 3, 256, dtype=torch.uint8, device=images.device)
    for code, function in _MEASURED_LUTS.items():
        places = np.flatnonzero(op == code)
        if len(places):
            taken = images.index_select(0, upload(rows[places], images.device))
            index = upload(places, images.device)
            luts.index_copy_(0, index, function(taken, arg[places]))
    return luts


def look_up(images: Tensor, luts: Tensor) -> Tensor:
    """Each grey level's entry in its image's and channel's table of lookup_tables."""
    return luts.gather(2, images.flatten(2).long()).view(images.shape)


def _autocontrast_luts(images: Tensor, arg: Floats) -> Tensor:
    """(n, 3, 256) tables that stretch each channel to 0..255; float64, as Python computes."""
    flat = images.flatten(2)
    low, high = flat.amin(2, keepdim=True).double(), flat.amax(2, keepdim=True).double()
    level = torch.arange(256, dtype=torch.float64, device=images.device)
    # A true division: torch computes number / tensor as number * reciprocal.
    scale = torch.full_like(low, 255.0) / (high - low).clamp_min(1.0)
    stretched = (level * scale + -low * scale).clamp_(0, 255)
    return torch.where(high > low, stretched, level).to(torch.uint8)


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
    """The result of _histograms; slow on a CPU, but never waits for a GPU, as bincount does."""
    levels = images.flatten(2).long()
    counts = torch.zeros(*levels.shape[:2], 256, dtype=torch.int64, device=images.device)
    return counts.scatter_add_(2, levels, torch.ones_like(levels))


_MEASURED_LUTS = {
    Op.AUTOCONTRAST: _autocontrast_luts,
    Op.EQUALIZE: _equalize_luts,
}
