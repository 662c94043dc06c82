"""Operations that replace each grey level by another one, whatever the rest of the image."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ixt.pipeline.augment.colour import blend, factors
from ixt.pipeline.augment.upload import upload

Floats = NDArray[np.float64]


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
