"""Rotate images in C; see rotate.c."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ixt.pipeline.native.build import function


def rotate(images: Tensor, terms: NDArray[np.float64], cubic: bool, fill: Tensor) -> Tensor | None:
    """Resample each image by a rotation of its own.

    Args:
        images: (n, 3, S, S) uint8, contiguous, in main memory.
        terms: (n, 4), of each image cosine and sine, and where the corner's source lies (x, y).
        cubic: bicubic, not bilinear.
        fill: (3, 1, 1) uint8, the colour outside the frame, in main memory.

    Returns:
        (n, 3, S, S) uint8; None where there is no C code.
    """
    rotated_by = _function()
    if rotated_by is None:
        return None
    result, terms, fill = torch.empty_like(images), np.ascontiguousarray(terms), fill.contiguous()
    for image, row, rotated in zip(images, terms, result, strict=True):
        places = image.data_ptr(), image.shape[-1], row.ctypes.data
        if rotated_by(*places, int(cubic), fill.data_ptr(), rotated.data_ptr()):
            return None
    return result


def _function() -> Callable[..., int] | None:
    place, number = ctypes.c_void_p, ctypes.c_int
    return function("ixt_rotate", place, number, place, number, place, place)
