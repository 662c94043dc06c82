"""Random erasing carried out: boxes filled with noise, on the images' device.

The noise is a pure function of (seed, epoch, position, pixel): the same bits on every device and
in every batch, because normal numbers come from a table of quantiles instead of a formula.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri
from torch import Tensor

from ixt.pipeline.augment.upload import upload
from ixt.pipeline.plan.erasing import EraseBoxes
from ixt.pipeline.plan.hashing import Draw, hash64

Ints = NDArray[np.int64]


# SplitMix64's constants, as hashing has them, in torch's signed 64-bit words.
_GOLDEN, _MIX_1, _MIX_2 = (
    int(np.uint64(word).view(np.int64))
    for word in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


def erase(
    images: Tensor, boxes: EraseBoxes, mode: str, noise_keys: tuple[ArrayLike, ...]
) -> Tensor:
    """Fill each image's boxes, in place.

    Args:
        images: (B, 3, S, S) float, normalised; changed and returned.
        boxes: one row per image.
        mode: const (zeros), rand (one normal colour per box) or pixel (normal noise).
        noise_keys: integer keys of the noise, such as (seed, epoch, positions).

    Raises:
        ValueError: no such mode, or the boxes' length is not the batch's.
    """
    if mode not in ("const", "rand", "pixel"):
        raise ValueError(f"mode is {mode!r}; allowed: const, rand, pixel")
    if len(boxes) != len(images):
        raise ValueError(f"{len(boxes)} rows of boxes for {len(images)} images")
    words = hash64(*noise_keys, Draw.ERASE_NOISE).view(np.int64)
    for place in range(boxes.box.shape[1]):
        _erase_one(images, boxes.box[:, place], place, mode, words)
    return images


def _erase_one(
    images: Tensor, box: NDArray[np.int32], place: int, mode: str, words: NDArray[np.int64]
) -> None:
    """Fill at most one box per image; box is (B, 4), words the images' noise keys."""
    rows = np.flatnonzero(box[:, 2] * box[:, 3])
    box, size = box[rows], images.shape[-1]
    patches: Sequence[Tensor | float]
    if mode == "const" or not len(rows):
        patches = [0.0] * len(rows)
    elif mode == "rand":
        keys = upload(words[rows], images.device)
        # Numbers from S * S on belong to no pixel.
        colours = _normals(keys, torch.full_like(keys, size * size + place))
        patches = colours.T[:, :, None, None].unbind()
    else:
        # One box at a time stays in a CPU's cache; a GPU takes all of them in a few launches.
        noise = _boxwise_noise if images.device.type == "cpu" else _pixel_noise
        patches = noise(box.astype(np.int64), words[rows], size, images.device)
    for row, (top, left, height, width), patch in zip(rows, box.tolist(), patches, strict=True):
        images[row, :, top : top + height, left : left + width] = patch


def _pixel_noise(
    box: NDArray[np.int64], words: NDArray[np.int64], size: int, device: torch.device
) -> list[Tensor]:
    """A (3, height, width) patch of noise for each of the boxes, which are (k, 4)."""
    top, left, height, width = box.T
    area = height * width
    start = np.cumsum(area) - area
    table = upload(np.stack([top * size + left, width, start, words, area]), device)
    total = int(area.sum())
    # Each pixel looks up its box; the known total spares a GPU from reporting it.
    pixels = table[:-1].repeat_interleave(table[-1], dim=1, output_size=total)
    corner, pitch, first, word = pixels
    within = torch.arange(total, device=device) - first
    number = corner + within + torch.div(within, pitch, rounding_mode="trunc") * (size - pitch)
    patches = torch.split(_normals(word, number), area.tolist(), dim=1)
    sides = zip(height.tolist(), width.tolist(), strict=True)
    return [patch.view(3, h, w) for patch, (h, w) in zip(patches, sides, strict=True)]


def _boxwise_noise(
    box: NDArray[np.int64], words: NDArray[np.int64], size: int, device: torch.device
) -> list[Tensor]:
    """The noise of _pixel_noise, one box after the other."""
    number = torch.arange(size * size, device=device).view(size, size)
    corners = zip(upload(words, device), box.tolist(), strict=True)
    return [
        _normals(word, number[top : top + height, left : left + width])
        for word, (top, left, height, width) in corners
    ]


def _normals(words: Tensor, numbers: Tensor) -> Tensor:
    """(3, ...) float32 N(0, 1): 16 bits of hash64(..., number) per channel, through the table."""
    bits = _finalise((words ^ numbers).add_(_GOLDEN))
    ranks = torch.stack([bits, bits >> 16, bits >> 32]).bitwise_and_(0xFFFF)
    return _quantiles(bits.device).index_select(0, ranks.flatten()).view(ranks.shape)


def _finalise(z: Tensor) -> Tensor:
    """SplitMix64's finaliser; torch shifts signed words, so the sign's copies are masked off."""
    z = ((z >> 30) & (2**34 - 1)).bitwise_xor_(z).mul_(_MIX_1)
    z = ((z >> 27) & (2**37 - 1)).bitwise_xor_(z).mul_(_MIX_2)
    return ((z >> 31) & (2**33 - 1)).bitwise_xor_(z)


@cache
def _quantiles(device: torch.device) -> Tensor:
    """(65536,) float32: the middle of each of the normal distribution's equal shares."""
    shares = (np.arange(2**16) + 0.5) / 2**16
    return upload(ndtri(shares).astype(np.float32), device)
