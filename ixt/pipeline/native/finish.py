"""Mix and normalise images in C; see finish.c."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ixt.pipeline.native.build import function


def mixup(own: Tensor, partner: Tensor, lam: float, rest: float, out: Tensor) -> bool:
    """Set out to own * lam + partner * rest, in float32, rounded half to even.

    Args:
        own: uint8 image in main memory.
        partner: as own, in the same memory order.
        lam: weight of own; used as float32.
        rest: weight of partner, likewise.
        out: as own; neither of them.

    Returns:
        whether it was done; not where there is no C code, or the memory has gaps.
    """
    mix = _mixup()
    if mix is None or not (own.stride() == partner.stride() == out.stride() and _is_dense(own)):
        return False
    mix(own.data_ptr(), partner.data_ptr(), own.numel(), lam, rest, out.data_ptr())
    return True


def normalise(
    images: Tensor, shift: NDArray[np.float32], spread: NDArray[np.float32], out: Tensor
) -> bool:
    """Set out to (images - shift) / spread, in float32.

    Args:
        images: (n, 3, S, S) uint8 in main memory.
        shift: (3,) of each channel.
        spread: (3,) of each channel.
        out: (n, 3, S, S) float32 in the same memory order.

    Returns:
        whether it was done; not where there is no C code, or the memory has gaps.
    """
    run = _normalise()
    if run is None or not len(images) or images[0].stride() != out[0].stride():
        return False
    if not _is_dense(images[0]):
        return False
    pixels = images[0, 0].numel()
    interleaved = not images[0].is_contiguous()
    numbers = (pixels, interleaved, shift.ctypes.data, spread.ctypes.data)
    for image, result in zip(images, out, strict=True):
        run(image.data_ptr(), *numbers, result.data_ptr())
    return True


def _is_dense(image: Tensor) -> bool:
    """Whether a (3, H, W) image lies in one piece, by channels or interleaved."""
    return image.is_contiguous() or image.permute(1, 2, 0).is_contiguous()


def _mixup() -> Callable[..., int] | None:
    place, number = ctypes.c_void_p, ctypes.c_float
    return function("ixt_mixup", place, place, ctypes.c_size_t, number, number, place)


def _normalise() -> Callable[..., int] | None:
    place = ctypes.c_void_p
    return function("ixt_normalise", place, ctypes.c_size_t, ctypes.c_int, place, place, place)
