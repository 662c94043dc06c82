"""Whole-pixel shifts with a reflected edge: the padding of DeiT's simple random crop."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ixt.pipeline.augment.upload import upload


def reflect_shift(images: Tensor, shift: NDArray[np.int64]) -> Tensor:
    """Take each pixel (y, x) from (y, x) + shift, mirrored at the outermost pixels.

    `images` are (B, 3, S, S) uint8; `shift` is (B, 2), rows and columns, each smaller than S.

    Returns:
        (B, 3, S, S) uint8, contiguous; the images themselves where nothing moves.
    """
    if not shift.any():
        return images
    size = images.shape[-1]
    place = np.abs(np.arange(size) + shift[:, :, None])
    source = upload(np.minimum(place, 2 * (size - 1) - place), images.device)
    down = source[:, 0, None, :, None].expand(images.shape)
    across = source[:, 1, None, None, :].expand(images.shape)
    return images.gather(2, down).gather(3, across)
