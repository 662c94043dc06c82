"""Colour jitter, grey images and blur: what timm does to colours besides, or after, a policy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ixt.pipeline.plan.crop import BILINEAR
from ixt.pipeline.plan.hashing import Draw, uniform
from ixt.pipeline.plan.policy.ops import Floats, Keys, Op, OpTable

_OPS = (Op.BRIGHTNESS, Op.CONTRAST, Op.COLOR, Op.HUE)
_SIGMA = (0.1, 2.0)  # torchvision's GaussianBlur


@dataclass(frozen=True)
class Jitter:
    """Settings of the three; nothing happens by default."""

    strength: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    """Ranges of brightness, contrast, saturation (1 - x to 1 + x, not below 0) and hue (-x to x,
    in turns of the colour circle)."""
    prob: float = 1.0
    """Probability that an image is jittered."""
    grayscale_prob: float = 0.0
    blur_prob: float = 0.0
    """Probability of a blur."""


def draw_jitter(jitter: Jitter, keys: Keys) -> OpTable | None:
    """Draw the jitter's factors and the order of its parts, then grey, then blur.

    Returns:
        One layer for each part that is on; None where none is.

    Source: transforms_imagenet_train of timm 1.0.31 with torchvision's ColorJitter,
    RandomGrayscale and GaussianBlur.
    """
    layers = _colours(jitter, keys)
    grey, blurred, spread = (np.atleast_1d(uniform(*keys, Draw.JITTER, use)) for use in range(3))
    if jitter.grayscale_prob > 0:
        layers.append((np.where(grey < jitter.grayscale_prob, Op.COLOR, 0), np.zeros_like(grey)))
    if jitter.blur_prob > 0:
        sigma = _SIGMA[0] + (_SIGMA[1] - _SIGMA[0]) * spread
        layers.append((np.where(blurred < jitter.blur_prob, Op.KERNEL_BLUR, 0), sigma))
    if not layers:
        return None
    op, arg = (np.stack(columns, axis=1) for columns in zip(*layers, strict=True))
    arg[op == Op.IDENTITY] = 0.0
    filters = np.full(op.shape, BILINEAR, np.uint8)
    return OpTable(op.astype(np.uint8), arg, filters)


def _colours(jitter: Jitter, keys: Keys) -> list[tuple[NDArray[np.int64], Floats]]:
    """Operation and argument of each image in each layer of the jitter."""
    on = [part for part in range(4) if jitter.strength[part] > 0]
    if not on:
        return []
    wide = tuple(np.asarray(key)[..., None] for key in keys)
    place, value = (
        np.atleast_2d(uniform(*wide, Draw.JITTER, 8 * (1 + np.array(on)) + use)) for use in range(2)
    )
    strength = np.array(jitter.strength)[on]
    centre = np.array([1.0, 1.0, 1.0, 0.0])[on]
    low = np.where(centre == 1.0, np.maximum(centre - strength, 0.0), -strength)
    factor = low + (centre + strength - low) * value
    # torchvision counts hue in steps of Pillow's byte.
    arg = np.where(centre == 0.0, np.trunc(factor * 255), factor)
    order = np.argsort(place, axis=1, kind="stable")
    jittered = np.atleast_1d(uniform(*keys, Draw.JITTER, 3)) < jitter.prob
    op = np.where(jittered[:, None], np.array(_OPS)[on][order], Op.IDENTITY)
    return list(zip(op.T, np.take_along_axis(arg, order, axis=1).T, strict=True))
