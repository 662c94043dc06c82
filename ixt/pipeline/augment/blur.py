"""Gaussian blur, as Pillow approximates it and as torchvision computes it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ixt.pipeline.augment.upload import upload

Floats = NDArray[np.float64]

_KERNEL_REACH = 11  # timm's kernel of 23 taps
_NEGLIGIBLE = 1e-7  # below float32's resolution of the sum


def gaussian_blur(images: Tensor, arg: Floats) -> Tensor:
    """Pillow's approximation: three box blurs along each axis, with fractional radius."""
    weights = upload(_box_weights(arg), images.device)[:, :, None, None, None]
    result = images.double()
    for _ in range(2):
        for _ in range(3):
            wide = torch.nn.functional.pad(result, (2, 2, 0, 0), mode="replicate")
            a, b, c, d, e = (wide[..., k : k + images.shape[-1]] for k in range(5))
            total = c * weights[:, 0] + (b + d) * weights[:, 1] + (a + e) * weights[:, 2]
            # 24-bit fixed point, as Pillow computes; whole numbers below 2**53, so exact.
            result = total.add_(2**23).mul_(2.0**-24).floor_()
        result = result.mT
    return result.to(torch.uint8)


def kernel_blur(images: Tensor, arg: Floats) -> Tensor:
    """A Gaussian of 23 taps, the edge reflected; torchvision's GaussianBlur(23).

    torchvision multiplies with the square kernel at once and this with one axis after the other,
    so a value on the edge of rounding can come out one level apart.
    """
    weights = _kernel_weights(arg)
    # Weights of 0 are left out: adding nothing changes no bit.
    reach = int(np.flatnonzero(weights.any(axis=0)).max())
    weight = upload(weights, images.device)[:, :, None, None, None]
    size, result = images.shape[-1], images.float()
    for _ in range(2):
        wide = torch.nn.functional.pad(result, (reach, reach, 0, 0), mode="reflect")
        total = result * weight[:, 0]
        for k in range(1, reach + 1):
            before, after = (wide[..., start : start + size] for start in (reach - k, reach + k))
            total += (before + after).mul_(weight[:, k])
        result = total.mT
    return result.round().clamp_(0, 255).short().to(torch.uint8)


def _kernel_weights(sigma: Floats) -> NDArray[np.float32]:
    """(n, 12) weights of the centre and its neighbours on either side; tiny ones are 0."""
    weights = np.exp(-0.5 * (np.arange(_KERNEL_REACH + 1) / sigma[:, None]) ** 2)
    weights /= 2 * weights.sum(axis=1, keepdims=True) - weights[:, :1]
    return np.where(weights < _NEGLIGIBLE, 0.0, weights).astype(np.float32)


def _box_weights(sigma: Floats) -> Floats:
    """(n, 3) weights of a box blur's centre, first and second neighbours, times 2**24.

    float32 where Pillow's _gaussian_blur_radius and ImagingHorizontalBoxBlur use it; holds for
    sigma up to 2.4, where the box grows wider than five pixels.
    """
    variance = (sigma.astype(np.float32) ** 2 / np.float32(3)).astype(np.float32)
    length = np.sqrt(12.0 * variance.astype(np.float64) + 1.0).astype(np.float32)
    whole = np.floor((length - 1) / 2).astype(np.float32)
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance)
    part = part / (6 * (variance - (whole + 1) * (whole + 1)))
    radius = (whole + part).astype(np.float32)
    full = np.floor(np.float32(2**24) / (radius * 2 + 1)).astype(np.int64)
    taps = np.floor(radius).astype(np.int64)
    edge = (2**24 - (taps * 2 + 1) * full) // 2
    first = np.where(taps == 0, edge, full)
    second = np.where(taps == 0, 0, edge)
    return np.stack([full, first, second], axis=1).astype(np.float64)
