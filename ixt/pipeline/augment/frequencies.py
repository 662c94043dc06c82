"""Smaller images by their low frequencies, instead of by resizing."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ixt.pipeline.augment.chunks import rows_at_once
from ixt.pipeline.augment.upload import upload

_BITS = 14


def low_frequencies(images: Tensor, size: int) -> Tensor:
    """The images that have the lowest frequencies of larger ones.

    The matrix has whole numbers of 2^-14, so every sum is exact in float64: the pixels do not
    depend on the batch, the number of threads or the device.

    Args:
        images: (B, 3, S, S) uint8.
        size: side of the result in pixels, below S.

    Returns:
        (B, 3, size, size) uint8.

    Source: Wang et al. 2023, "EfficientTrain" (arXiv 2211.09703): crop the centre of the shifted
    2D Fourier transform and transform back, here as a product with one matrix per axis.
    """
    matrix = upload(_matrix(images.shape[-1], size), images.device).double()
    result = images.new_empty((*images.shape[:2], size, size))
    rows = rows_at_once(images)
    for out, part in zip(torch.split(result, rows), torch.split(images, rows), strict=True):
        small = matrix @ part.double() @ matrix.T
        out.copy_(small.div_(4.0**_BITS).round_().clamp_(0, 255))
    return result


@lru_cache(maxsize=8)
def _matrix(side: int, size: int) -> NDArray[np.int64]:
    """(size, side): the inverse transform of the lowest frequencies of the transform, in 2^-14.

    Of an even size the highest frequency has no partner; its real part is taken, which differs
    from the transform in the highest frequency of both axes at once.
    """
    waves = 2j * np.pi * np.arange(-(size // 2), (size + 1) // 2)
    back = np.exp(waves * np.arange(size)[:, None] / size)
    exact = (back @ np.exp(-waves[:, None] * np.arange(side) / side)).real / side
    matrix: NDArray[np.int64] = np.rint(exact * 2**_BITS).astype(np.int64)
    # A grey image stays as it is.
    matrix[np.arange(size), exact.argmax(axis=1)] += 2**_BITS - matrix.sum(axis=1)
    return matrix
