"""RandAugment as numbers: which operation, with which argument, for which image.

Drawing only, in numpy; `augment` carries the operations out. Loads no torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from ixt.data.crop import BICUBIC, BILINEAR
from ixt.data.hashing import Draw, uniform
from ixt.errors import RecipeError

Floats = NDArray[np.float64]
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
    """Standard deviation in pixels."""


_LEVELS = 10.0  # timm's full scale: magnitude 10 is the strongest setting of the paper


def _signed(full: float) -> LevelMap:
    return lambda level, sign: sign * (level / _LEVELS * full)


def _steps(full: int, limit: int | None = None) -> LevelMap:
    top = math.inf if limit is None else limit
    return lambda level, sign: np.minimum(np.trunc(level / _LEVELS * full), top)


def _steps_down(start: int, full: int) -> LevelMap:
    return lambda level, sign: start - np.minimum(np.trunc(level / _LEVELS * full), start)


def _factor(level: Floats, sign: Floats) -> Floats:
    return level / _LEVELS * 1.8 + 0.1


def _factor_from_one(level: Floats, sign: Floats) -> Floats:
    return np.maximum(0.1, 1.0 + sign * (level / _LEVELS * 0.9))


def _within(low: float, high: float) -> LevelMap:
    return lambda level, sign: np.clip(low + (high - low) * (level / _LEVELS), low, high)


def _desaturate(level: Floats, sign: Floats) -> Floats:
    return np.clip(1.0 - _within(0.5, 1.0)(level, sign), 0.0, 1.0)


def _none(level: Floats, sign: Floats) -> Floats:
    return np.zeros_like(level)


# timm's names: the operation, and its argument from level (0 to mmax) and sign (-1 or 1).
# Translations are a share of the image's side here; draw_policy turns them into pixels.
_OPS: dict[str, tuple[Op, LevelMap]] = {
    "AutoContrast": (Op.AUTOCONTRAST, _none),
    "Equalize": (Op.EQUALIZE, _none),
    "Invert": (Op.INVERT, _none),
    "Rotate": (Op.ROTATE, _signed(30.0)),
    "Posterize": (Op.POSTERIZE, _steps(4)),
    "PosterizeIncreasing": (Op.POSTERIZE, _steps_down(4, 4)),
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
}

_PLAIN = ("AutoContrast", "Equalize", "Invert", "SolarizeAdd")
_GEOMETRIC = ("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel")
_GRADED = ("Posterize", "Solarize", "Color", "Contrast", "Brightness", "Sharpness")
_DEFAULT = (*_PLAIN, *_GEOMETRIC, *_GRADED)
_INCREASING = (*_PLAIN, *_GEOMETRIC, *(f"{name}Increasing" for name in _GRADED))
_NOT_IN_3AW = ("SolarizeAdd", "TranslateXRel", "TranslateYRel")
_THREE = ("SolarizeIncreasing", "Desaturate", "GaussianBlur")

# timm's weighted sets: how often each operation is drawn, relative to the others.
_WEIGHTS: dict[str, dict[str, float]] = {
    "weights": dict.fromkeys(_INCREASING, 0.05)
    | dict.fromkeys(("ColorIncreasing", "SharpnessIncreasing", "AutoContrast"), 0.25)
    | dict.fromkeys(("TranslateXRel", "TranslateYRel"), 1.0)
    | {"Rotate": 3.0, "ShearX": 2.0, "ShearY": 2.0},
    "3aw": {name: 1.0 for name in _INCREASING if name not in _NOT_IN_3AW}
    | dict.fromkeys(_THREE, 6.0)
    | {"Rotate": 3.0, "ShearX": 2.0, "ShearY": 2.0},
}


@dataclass(frozen=True)
class Policy:
    """A parsed RandAugment string; the fields are timm's, by their long names."""

    names: tuple[str, ...]
    """timm's names of the operations to draw from."""
    weights: tuple[float, ...] | None = None
    """Relative frequencies, drawn without replacement; None draws evenly, with replacement."""
    num_layers: int = 2
    """Operations drawn per image."""
    prob: float = 0.5
    """Probability that a drawn operation is applied."""
    magnitude: int = 10
    """Mean strength, 0 to magnitude_max."""
    magnitude_std: float = 0.0
    """Standard deviation of the strength; infinity draws it uniformly from 0 to magnitude."""
    magnitude_max: int = 10
    """Strengths are clipped to this."""


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


def parse_policy(text: str) -> Policy:
    """Read timm's RandAugment string, such as rand-m9-mstd0.5-inc1.

    Sections may stand in any order: m (magnitude, 10), n (layers, 2), p (probability of each
    operation, 0.5), mstd (standard deviation of the magnitude, 0; above 100 uniform), mmax
    (largest magnitude, 10), inc (1: operations grow stronger with the magnitude), t (a set of
    operations: tweights, t3a, t3aw).

    Raises:
        RecipeError: not such a string. Stricter than timm, which skips what it cannot read.

    Source: rand_augment_transform of timm 1.0.31.
    """
    first, *sections = text.split("-")
    if first != "rand":
        raise RecipeError(f"policy {text!r}: must start with rand-, as in rand-m9-mstd0.5-inc1")
    settings: dict[str, Any] = {}
    for section in sections:
        key, value = _parse_section(text, section)
        if key in settings:
            raise RecipeError(f"policy {text!r}: {key} is given twice; keep one")
        settings[key] = value
    increasing = settings.pop("inc", 0)
    names, weights = _transforms(settings.pop("t", None), bool(increasing))
    num_layers = settings.get("n", 2)
    if weights is not None and num_layers > len(names):
        raise RecipeError(
            f"policy {text!r}: n{num_layers} asks for more operations than the set's {len(names)}"
        )
    std = settings.get("mstd", 0.0)
    return Policy(
        names=names,
        weights=weights,
        num_layers=num_layers,
        prob=settings.get("p", 0.5),
        magnitude=settings.get("m", 10),
        magnitude_std=math.inf if std > 100 else std,
        magnitude_max=settings.get("mmax", 10),
    )


def draw_policy(
    policy: Policy, keys: tuple[ArrayLike, ...], image_size: int, fixed_filter: int | None = None
) -> OpTable:
    """Draw operations, strengths, signs and filters for each image.

    Args:
        policy: what to draw from.
        keys: integer keys of the random numbers, such as (seed, epoch, positions).
        image_size: side of the square images in pixels.
        fixed_filter: BILINEAR or BICUBIC; None draws one of them for each operation.

    Source: RandAugment and AugmentOp of timm 1.0.31, draw by draw.
    """
    wide = tuple(np.asarray(key)[..., None] for key in keys)
    # Eight numbers are set aside per layer, so that adding a layer leaves the others alone.
    chosen, applied, strength, sign, smooth = (
        uniform(*wide, Draw.POLICY, 8 * np.arange(policy.num_layers) + use) for use in range(5)
    )
    choice = _choices(policy, wide, chosen)
    level = _levels(policy, strength)
    sign = np.where(sign < 0.5, -1.0, 1.0)
    op = np.zeros(choice.shape, np.uint8)
    arg = np.zeros(choice.shape, np.float64)
    for index, name in enumerate(policy.names):
        here = (choice == index) & (applied < policy.prob)
        code, to_arg = _OPS[name]
        op[here] = code
        value = to_arg(level[here], sign[here])
        arg[here] = value * image_size if code in (Op.TRANSLATE_X, Op.TRANSLATE_Y) else value
    drawn = np.where(smooth < 0.5, BILINEAR, BICUBIC)
    filters = drawn if fixed_filter is None else np.full_like(drawn, fixed_filter)
    return OpTable(op=op, arg=arg, filter=filters.astype(np.uint8))


def _parse_section(text: str, section: str) -> tuple[str, Any]:
    """Key and value of one section of a policy string."""
    if section.startswith("t"):
        name = section[1:]
        if name not in (*_WEIGHTS, "3a"):
            raise RecipeError(
                f"policy {text!r}: no set of operations is called {name!r}; allowed: tweights, "
                "t3a, t3aw (inc0 and inc1 choose between the plain and the increasing set)"
            )
        return "t", name
    match = re.fullmatch(r"(mstd|mmax|inc|m|n|p)(\d+(?:\.\d+)?)", section)
    if match is None:
        raise RecipeError(
            f"policy {text!r}: cannot read {section!r}; allowed: m, n, p, mstd, mmax, inc, each "
            "followed by a number, and tweights, t3a or t3aw"
        )
    key, number = match.groups()
    if key in ("mstd", "p"):
        low, high, value = 0.0, math.inf if key == "mstd" else 1.0, float(number)
    elif number.isdigit():
        low, high = {"inc": (0, 1), "m": (0, math.inf)}.get(key, (1, math.inf))
        value = int(number)
    else:
        raise RecipeError(f"policy {text!r}: {section} needs a whole number")
    if not low <= value <= high:
        bounds = f"at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
        raise RecipeError(f"policy {text!r}: {section} is out of range; {key} must be {bounds}")
    return key, value


def _transforms(
    name: str | None, increasing: bool
) -> tuple[tuple[str, ...], tuple[float, ...] | None]:
    """Names of a set's operations, and their weights where it has some."""
    if name in _WEIGHTS:
        return tuple(_WEIGHTS[name]), tuple(_WEIGHTS[name].values())
    if name == "3a":
        return _THREE, None
    return (_INCREASING if increasing else _DEFAULT), None


def _choices(policy: Policy, wide: tuple[Any, ...], chosen: Floats) -> NDArray[np.int64]:
    """(n, layers) indices into the policy's operations."""
    if policy.weights is None:
        return np.floor(chosen * len(policy.names)).astype(np.int64)
    # The order in which exponential clocks ring is a weighted draw without replacement.
    draws = uniform(*wide, Draw.POLICY, 2**16 + np.arange(len(policy.weights)))
    clocks = -np.log1p(-draws) / np.asarray(policy.weights)
    return np.argsort(clocks, axis=-1, kind="stable")[..., : policy.num_layers]


def _levels(policy: Policy, strength: Floats) -> Floats:
    """Magnitudes from uniform numbers, clipped to the policy's range."""
    if policy.magnitude_std == math.inf:
        level = policy.magnitude * strength
    else:
        # A uniform number of 0 is minus infinity here, and clipped as such.
        noise = ndtri(strength) if policy.magnitude_std > 0 else np.zeros_like(strength)
        level = policy.magnitude + policy.magnitude_std * noise
    return np.clip(level, 0.0, float(policy.magnitude_max))
