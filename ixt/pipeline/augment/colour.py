"""Operations on the colours of whole images, sharpness among them; and Pillow's blend."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ixt.pipeline.augment.upload import upload

Floats = NDArray[np.float64]

# Which of the levels bright, rising, lowest, fading is red, green and blue, by sixth of the circle.
_LEVEL_OF_SECTOR = np.array(
    [[0, 1, 2], [3, 0, 2], [2, 0, 1], [2, 3, 0], [1, 2, 0], [0, 2, 3]], np.int64
)


def color(images: Tensor, arg: Floats) -> Tensor:
    """Blend with the luma: grey at 0, unchanged at 1."""
    return blend(luma(images)[:, None], images.float(), factors(arg, images))


def contrast(images: Tensor, arg: Floats) -> Tensor:
    """Blend with the mean of the luma: that grey at 0, unchanged at 1."""
    grey = luma(images).flatten(1)
    # A float64 sum of whole numbers is exact in any order.
    mean = (grey.sum(1, dtype=torch.float64) / grey.shape[1] + 0.5).floor().float()
    return blend(mean[:, None, None, None], images.float(), factors(arg, images))


def sharpness(images: Tensor, arg: Floats) -> Tensor:
    """Blend with a smoothed image: smooth at 0, unchanged at 1; the outermost pixels stay."""
    wide = images.short()
    across = wide[..., :-2] + wide[..., 1:-1] + wide[..., 2:]
    total = across[:, :, :-2] + across[:, :, 1:-1] + across[:, :, 2:]
    inner = wide[:, :, 1:-1, 1:-1]
    # total / 13, rounded; never near a half, so float32 rounds it right.
    smooth = total.add_(4 * inner).float().add_(6.5).mul_(1 / 13).floor_()
    result = images.clone()
    result[:, :, 1:-1, 1:-1] = blend(smooth, inner.float(), factors(arg, images))
    return result


def hue(images: Tensor, arg: Floats) -> Tensor:
    """Turn the hue of each pixel by arg steps of Pillow's HSV bytes.

    Source: RGB to HSV and back in Pillow's Convert.c, rounding by rounding.
    """
    angle, saturation, value = _to_hsv(images)
    steps = upload(arg.astype(np.int64), images.device)[:, None, None]
    return _from_hsv((angle + steps) & 255, saturation, value)


def _to_hsv(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hue as int64, saturation and value as float32, all (n, S, S) and whole, 0 to 255."""
    value = images.amax(1)
    span = (value - images.amin(1)).float()
    above = (value[:, None] - images).float().div_(span.clamp_min(1.0)[:, None])
    red, green, blue = above.double().unbind(1)
    # The sums are exact in float64 and rounded once, to float32, as in C.
    sixths = torch.where(
        images[:, 0] == value,
        blue - green,
        torch.where(images[:, 1] == value, 2.0 + red - blue, 4.0 + green - red),
    )
    turn = torch.fmod(sixths.float().double().div_(6.0).add_(1.0), 1.0).float()
    angle = turn.double().mul_(255.0).long().mul_(span > 0)
    share = span / value.float().clamp_min_(1.0)
    saturation = share.double().mul_(255.0).floor_().float()
    return angle, saturation, value.float()


def _from_hsv(angle: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """(n, 3, S, S) uint8 of what _to_hsv gave."""
    sixths = np.arange(256) * 6.0 / 255.0
    sector = np.floor(sixths).astype(np.int64)
    rest = upload((sixths - sector).astype(np.float32), angle.device)[angle]
    share = (saturation.double() / 255.0).float()
    bright = value.double()
    fading = bright * (1.0 - (share * rest).double())
    rising = bright * (1.0 - share.double() * (1.0 - rest.double()))
    lowest = bright * (1.0 - share.double())
    levels = torch.stack([bright, rising, lowest, fading], 1).add_(0.5).floor_()
    places = upload(_LEVEL_OF_SECTOR[sector % 6], angle.device)
    chosen = levels.to(torch.uint8).gather(1, places[angle].movedim(-1, 1))
    return chosen.contiguous()


def luma(images: Tensor) -> Tensor:
    """(n, S, S) float32 of whole numbers: Pillow's 16-bit fixed point, exact in float32."""
    red, green, blue = images.unbind(1)
    scaled = (red * 19595.0).add_(green * 38470.0).add_(blue * 7471.0).add_(32768.0)
    return scaled.mul_(2.0**-16).floor_()


def factors(arg: Floats, images: Tensor) -> Tensor:
    """(n, 1, 1, 1) float32 arguments on the images' device."""
    return upload(arg.astype(np.float32), images.device)[:, None, None, None]


def blend(base: Tensor, images: Tensor, factor: Tensor) -> Tensor:
    """Uint8 of base + factor * (images - base), clipped and truncated as Pillow's blend does."""
    mixed = (images - base).mul_(factor).add_(base).clamp_(0, 255)
    # By way of int16, which a CPU converts three times faster.
    return mixed.short().to(torch.uint8)
