"""RandAugment with timm's sets of operations, weights and noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ixt.errors import RecipeError
from ixt.pipeline.plan.hashing import Draw, uniform
from ixt.pipeline.plan.policy.grammar import OPERATIONS, STRENGTH, Number, read_sections
from ixt.pipeline.plan.policy.ops import (
    Floats,
    Frame,
    Ints,
    Keys,
    OpTable,
    build_table,
    draw_levels,
)

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

_NUMBERS = {
    "m": Number(0, STRENGTH),
    "n": Number(1, OPERATIONS),
    "p": Number(0, 1, whole=False),
    "mstd": Number(0, STRENGTH, whole=False),
    "mmax": Number(1, STRENGTH),
    "inc": Number(0, 1),
}


@dataclass(frozen=True)
class RandAugment:
    """A parsed rand- string; the fields are timm's, by their long names."""

    names: tuple[str, ...]
    """timm's names of the operations to draw from."""
    weights: tuple[float, ...] | None = None
    """Relative frequencies, drawn without replacement; None draws evenly, with replacement."""
    num_layers: int = 2
    """Operations drawn per image."""
    prob: float = 0.5
    """Probability that a drawn operation is applied."""
    magnitude: float = 10
    """Mean strength, 0 to magnitude_max."""
    magnitude_std: float = 0.0
    """Standard deviation of the strength; infinity draws it uniformly from 0 to magnitude."""
    magnitude_max: float = 10
    """Strengths are clipped to this."""


def parse_rand(text: str) -> RandAugment:
    """Read a string such as rand-m9-mstd0.5-inc1.

    Sections may stand in any order: m (magnitude, 10), n (layers, 2), p (probability of each
    operation, 0.5), mstd (standard deviation of the magnitude, 0; above 100 uniform), mmax
    (largest magnitude, 10), inc (1: operations grow stronger with the magnitude), t (a set of
    operations: tweights, t3a, t3aw).

    Raises:
        RecipeError: not such a string.

    Source: rand_augment_transform of timm 1.0.31.
    """
    settings, chosen = read_sections(text, _NUMBERS, ("weights", "3a", "3aw"))
    names, weights = _transforms(chosen, increasing=settings.get("inc") == 1)
    num_layers = int(settings.get("n", 2))
    if weights is not None and num_layers > len(names):
        raise RecipeError(
            f"policy {text!r}: n{num_layers} asks for more operations than the {len(names)} in "
            "the set"
        )
    std = settings.get("mstd", 0.0)
    return RandAugment(
        names=names,
        weights=weights,
        num_layers=num_layers,
        prob=settings.get("p", 0.5),
        magnitude=settings.get("m", 10),
        magnitude_std=math.inf if std > 100 else std,
        magnitude_max=settings.get("mmax", 10),
    )


def draw_rand(policy: RandAugment, keys: Keys, frame: Frame) -> OpTable:
    """Draw operations, strengths, signs and filters for each image.

    Source: RandAugment and AugmentOp of timm 1.0.31, draw by draw.
    """
    wide = tuple(np.asarray(key)[..., None] for key in keys)
    # Eight numbers are set aside per layer, so that adding a layer leaves the others alone.
    chosen, applied, strength, coin, smooth = (
        uniform(*wide, Draw.POLICY, 8 * np.arange(policy.num_layers) + use) for use in range(5)
    )
    return build_table(
        policy.names,
        _choices(policy, wide, chosen),
        applied < policy.prob,
        draw_levels(policy.magnitude, policy.magnitude_std, strength, policy.magnitude_max),
        coin,
        smooth,
        frame,
    )


def _transforms(
    name: str | None, *, increasing: bool
) -> tuple[tuple[str, ...], tuple[float, ...] | None]:
    """Names of a set's operations, and their weights where it has some."""
    if name in _WEIGHTS:
        return tuple(_WEIGHTS[name]), tuple(_WEIGHTS[name].values())
    if name == "3a":
        return _THREE, None
    return (_INCREASING if increasing else _DEFAULT), None


def _choices(policy: RandAugment, wide: tuple[Any, ...], chosen: Floats) -> Ints:
    """(n, layers) indices into the policy's operations."""
    if policy.weights is None:
        return np.floor(chosen * len(policy.names)).astype(np.int64)
    # The order in which exponential clocks ring is a weighted draw without replacement.
    draws = uniform(*wide, Draw.POLICY, 2**16 + np.arange(len(policy.weights)))
    clocks = -np.log1p(-draws) / np.asarray(policy.weights)
    return np.argsort(clocks, axis=-1, kind="stable")[..., : policy.num_layers]
