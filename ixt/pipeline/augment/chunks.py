"""How many images to work on at once."""

from __future__ import annotations

from torch import Tensor

# Two images of 224 px: their float32 values still fit a CPU core's cache.
_CPU_PIXELS = 2 * 224 * 224


def rows_at_once(images: Tensor) -> int:
    """How many images to work on at once: a cacheful on a CPU, all of them on a GPU."""
    if images.device.type != "cpu":
        return max(len(images), 1)
    return max(1, _CPU_PIXELS // (images.shape[-2] * images.shape[-1]))
