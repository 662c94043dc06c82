"""The operations of all policies, how strong each is at a level, and tables of them.

A level is timm's magnitude: 0 to 10 by default, 10 being the strongest setting of the papers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from ixt.pipeline.plan.crop import BICUBIC, BILINEAR

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Keys = tuple[ArrayLike, ...]
LevelMap = Callable[[Floats, Floats], Floats]


class Op(IntEnum):
    """What can be done to an image, and what its argument means."""

    IDENTITY = 0
    AUTOCONTRAST = 1
    EQUALIZE = 2
    INVERT = 3
    POSTERIZE = 4
    """Bits kept of each value."""
    SOLARIZE = 5
    """Values from this threshold on are inverted."""
    SOLARIZE_ADD = 6
    """Added to values below 128."""
    BRIGHTNESS = 7
    """Factor: 0 black, 1 unchanged."""
    CONTRAST = 8
    """Factor: 0 the mean grey, 1 unchanged."""
    COLOR = 9
    """Factor: 0 grey, 1 unchanged."""
    SHARPNESS = 10
    """Factor: 0 smoothed, 1 unchanged."""
    ROTATE = 11
    """Degrees counter-clockwise."""
    SHEAR_X = 12
    """Pixels to the left per row."""
    SHEAR_Y = 13
    """Pixels upwards per column."""
    TRANSLATE_X = 14
    """Pixels to the left."""
    TRANSLATE_Y = 15
    """Pixels upwards."""
    GAUSSIAN_BLUR = 16
    """Standard deviation in pixels, at most 2.4; Pillow's approximation by box blurs."""
    HUE = 17
    """Steps of 1/256 of the colour circle, from red towards green."""
    KERNEL_BLUR = 18
    """Standard deviation in pixels; torchvision's kernel of 23 taps."""


_LEVELS = 10.0


def _signed(full: float) -> LevelMap:
    # Away from zero on either side, as the coin falls.
    return lambda level, coin: np.where(coin < 0.5, -1.0, 1.0) * (level / _LEVELS * full)


def _steps(full: int, limit: float = math.inf) -> LevelMap:
    return lambda level, coin: np.minimum(np.trunc(level / _LEVELS * full), limit)


def _steps_down(start: int, full: int) -> LevelMap:
    return lambda level, coin: start - np.minimum(np.trunc(level / _LEVELS * full), start)


def _steps_up(start: int, full: int) -> LevelMap:
    return lambda level, coin: start + np.trunc(level / _LEVELS * full)


def _factor(level: Floats, coin: Floats) -> Floats:
    return level / _LEVELS * 1.8 + 0.1


def _factor_from_one(level: Floats, coin: Floats) -> Floats:
    return np.maximum(0.1, 1.0 + _signed(0.9)(level, coin))


def _within(low: float, high: float) -> LevelMap:
    return lambda level, coin: np.clip(low + (high - low) * (level / _LEVELS), low, high)


def _desaturate(level: Floats, coin: Floats) -> Floats:
    return np.clip(1.0 - _within(0.5, 1.0)(level, coin), 0.0, 1.0)


def _random_sigma(level: Floats, coin: Floats) -> Floats:
    return 0.1 + (2.0 * _within(0.0, 1.0)(level, coin) - 0.1) * coin


def _none(level: Floats, coin: Floats) -> Floats:
    return np.zeros_like(level)


Kinds = Mapping[str, tuple[Op, LevelMap]]

# timm's names: the operation, and its argument from a level and a coin (uniform in [0, 1)).
# Translations are a share of the image's side here; build_table turns them into pixels.
KINDS: Kinds = {
    "AutoContrast": (Op.AUTOCONTRAST, _none),
    "Equalize": (Op.EQUALIZE, _none),
    "Invert": (Op.INVERT, _none),
    "Rotate": (Op.ROTATE, _signed(30.0)),
    "Posterize": (Op.POSTERIZE, _steps(4)),
    "PosterizeIncreasing": (Op.POSTERIZE, _steps_down(4, 4)),
    "PosterizeOriginal": (Op.POSTERIZE, _steps_up(4, 4)),
    "Solarize": (Op.SOLARIZE, _steps(256, 256)),
    "SolarizeIncreasing": (Op.SOLARIZE, _steps_down(256, 256)),
    "SolarizeAdd": (Op.SOLARIZE_ADD, _steps(110, 128)),
    "Color": (Op.COLOR, _factor),
    "ColorIncreasing": (Op.COLOR, _factor_from_one),
    "Contrast": (Op.CONTRAST, _factor),
    "ContrastIncreasing": (Op.CONTRAST, _factor_from_one),
    "Brightness": (Op.BRIGHTNESS, _factor),
    "BrightnessIncreasing": (Op.BRIGHTNESS, _factor_from_one),
    "Sharpness": (Op.SHARPNESS, _factor),
    "SharpnessIncreasing": (Op.SHARPNESS, _factor_from_one),
    "ShearX": (Op.SHEAR_X, _signed(0.3)),
    "ShearY": (Op.SHEAR_Y, _signed(0.3)),
    "TranslateXRel": (Op.TRANSLATE_X, _signed(0.45)),
    "TranslateYRel": (Op.TRANSLATE_Y, _signed(0.45)),
    "Desaturate": (Op.COLOR, _desaturate),
    "GaussianBlur": (Op.GAUSSIAN_BLUR, _within(0.1, 2.0)),
    "GaussianBlurRand": (Op.GAUSSIAN_BLUR, _random_sigma),
}

# AugMix moves images less far.
AUGMIX_KINDS: Kinds = {
    **KINDS,
    "TranslateXRel": (Op.TRANSLATE_X, _signed(0.3)),
    "TranslateYRel": (Op.TRANSLATE_Y, _signed(0.3)),
}


@dataclass(frozen=True)
class Frame:
    """What a policy must know of the images."""

    size: int
    """Side of the square images in pixels."""
    filter: int | None = None
    """BILINEAR or BICUBIC; None draws one of them for each operation."""


@dataclass(frozen=True)
class OpTable:
    """One row per image, one column per layer: what to do, in the order of the columns."""

    op: NDArray[np.uint8]
    """(n, layers): an Op; IDENTITY where the drawn operation is not applied."""
    arg: NDArray[np.float64]
    """(n, layers): the operation's argument, in the unit that Op gives."""
    filter: NDArray[np.uint8]
    """(n, layers): BILINEAR or BICUBIC, for the geometric operations."""

    def __len__(self) -> int:
        return len(self.op)

    def take(self, rows: Any) -> OpTable:
        """The rows that a numpy index selects."""
        return OpTable(self.op[rows], self.arg[rows], self.filter[rows])


def build_table(
    names: Sequence[str],
    choice: Ints,
    applied: Bools,
    level: Floats,
    coin: Floats,
    smooth: Floats,
    frame: Frame,
    kinds: Kinds = KINDS,
) -> OpTable:
    """The table that the drawn numbers stand for; all arrays are (n, layers).

    Args:
        names: keys of `kinds`.
        choice: indices into names.
        applied: whether the operation is carried out.
        level: its strength.
        coin: uniform number that decides its sign (or another second choice).
        smooth: uniform number that decides its filter, where the frame leaves that open.
        frame: the images.
        kinds: which operation a name is.
    """
    op = np.zeros(choice.shape, np.uint8)
    arg = np.zeros(choice.shape, np.float64)
    for index, name in enumerate(names):
        here = (choice == index) & applied
        code, to_arg = kinds[name]
        op[here] = code
        value = to_arg(level[here], coin[here])
        arg[here] = value * frame.size if code in (Op.TRANSLATE_X, Op.TRANSLATE_Y) else value
    return OpTable(op=op, arg=arg, filter=choose_filters(smooth, frame))


def choose_filters(smooth: Floats, frame: Frame) -> NDArray[np.uint8]:
    """BILINEAR or BICUBIC by uniform numbers, unless the frame says which."""
    if frame.filter is not None:
        return np.full(smooth.shape, frame.filter, np.uint8)
    return np.where(smooth < 0.5, BILINEAR, BICUBIC).astype(np.uint8)


def draw_levels(mean: ArrayLike, std: float, strength: Floats, top: float = _LEVELS) -> Floats:
    """Levels from uniform numbers, clipped to 0..top.

    Args:
        mean: the level meant; broadcasts.
        std: standard deviation of the level; infinity draws it uniformly from 0 to mean.
        strength: uniform numbers.
        top: largest level.
    """
    middle = np.asarray(mean, np.float64)
    if std == math.inf:
        level: Floats = middle * strength
    else:
        # A uniform number of 0 is minus infinity here, and clipped as such.
        noise = ndtri(strength) if std > 0 else np.zeros_like(strength)
        level = middle + std * noise
    return np.clip(level, 0.0, float(top))


def join_layers(tables: Sequence[OpTable]) -> OpTable | None:
    """Tables of the same images one after the other; None where there are none."""
    if not tables:
        return None
    columns = ([getattr(table, name) for table in tables] for name in ("op", "arg", "filter"))
    return OpTable(*(np.concatenate(parts, axis=1) for parts in columns))
