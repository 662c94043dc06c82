"""AugMix: several chains of operations per image, mixed with each other and with the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

from ixt.pipeline.plan.hashing import Draw, randint, uniform
from ixt.pipeline.plan.policy.grammar import OPERATIONS, STRENGTH, Number, read_sections
from ixt.pipeline.plan.policy.ops import (
    AUGMIX_KINDS,
    Floats,
    Frame,
    Keys,
    OpTable,
    build_table,
    draw_levels,
)

NAMES = (
    "AutoContrast",
    "ColorIncreasing",
    "ContrastIncreasing",
    "BrightnessIncreasing",
    "SharpnessIncreasing",
    "Equalize",
    "Rotate",
    "PosterizeIncreasing",
    "SolarizeIncreasing",
    "ShearX",
    "ShearY",
    "TranslateXRel",
    "TranslateYRel",
)
"""timm's names of the operations: the paper's nine and four more."""

_MAX_RANDOM_DEPTH = 3

_NUMBERS = {
    "m": Number(0, STRENGTH),
    "w": Number(1, OPERATIONS),
    "d": Number(0, OPERATIONS),
    "a": Number(0.01, STRENGTH, whole=False),
    "b": Number(0, 1),
    "mstd": Number(0, STRENGTH, whole=False),
}


@dataclass(frozen=True)
class AugMix:
    """A parsed augmix string; the fields are timm's, by their long names."""

    magnitude: float = 3
    """Mean strength, or the largest one where magnitude_std is infinite."""
    magnitude_std: float = np.inf
    """Standard deviation of the strength; infinity draws it uniformly from 0 to magnitude."""
    width: int = 3
    """Chains per image."""
    depth: int = 0
    """Operations per chain; 0 draws 1 to 3."""
    alpha: float = 1.0
    """Parameter of the Dirichlet and Beta distributions of the weights."""
    blended: bool = False
    """Blend each chain into the image in turn instead of summing up first."""


@dataclass(frozen=True)
class AugMixTable:
    """One row per image."""

    chains: tuple[OpTable, ...]
    """The operations of each chain."""
    weights: NDArray[np.float32]
    """(n, width): shares of the chains, which sum to 1."""
    share: NDArray[np.float32]
    """(n,): share of the mixed chains in the result; the image has the rest."""
    blended: bool
    """Whether chains are blended into the image in turn."""

    def __len__(self) -> int:
        return len(self.share)

    def take(self, rows: Any) -> AugMixTable:
        """The rows that a numpy index selects."""
        chains = tuple(chain.take(rows) for chain in self.chains)
        return AugMixTable(chains, self.weights[rows], self.share[rows], self.blended)


def parse_augmix(text: str) -> AugMix:
    """Read a string such as augmix-m5-w4-d2.

    Sections may stand in any order: m (magnitude, 3), w (chains, 3), d (operations per chain;
    0, the default, draws 1 to 3), a (alpha of the weights, 1), b (1: blend each chain into the
    image in turn), mstd (standard deviation of the magnitude; uniform where it is not given).

    Raises:
        RecipeError: not such a string.

    Source: augment_and_mix_transform of timm 1.0.31.
    """
    settings, _ = read_sections(text, _NUMBERS)
    return AugMix(
        magnitude=settings.get("m", 3),
        magnitude_std=settings.get("mstd", np.inf),
        width=int(settings.get("w", 3)),
        depth=int(settings.get("d", 0)),
        alpha=settings.get("a", 1.0),
        blended=settings.get("b") == 1,
    )


def draw_augmix(policy: AugMix, keys: Keys, frame: Frame) -> AugMixTable:
    """Draw chains and weights for each image.

    Source: AugMixAugment of timm 1.0.31 (Hendrycks et al. 2020, arXiv 1912.02781).
    """
    quantile = np.atleast_1d(uniform(*keys, Draw.AUGMIX_WEIGHT, 0))
    share = betaincinv(policy.alpha, policy.alpha, quantile)
    return AugMixTable(
        chains=tuple(_chain(policy, keys, frame, chain) for chain in range(policy.width)),
        weights=_dirichlet(policy, keys, len(share)).astype(np.float32),
        share=share.astype(np.float32),
        blended=policy.blended,
    )


def _chain(policy: AugMix, keys: Keys, frame: Frame, chain: int) -> OpTable:
    slots = np.arange(policy.depth or _MAX_RANDOM_DEPTH)
    wide = tuple(np.asarray(key)[..., None] for key in keys)
    chosen, strength, coin, smooth = (
        np.atleast_2d(uniform(*wide, Draw.AUGMIX, chain, 8 * (1 + slots) + use)) for use in range(4)
    )
    depth = randint(_MAX_RANDOM_DEPTH, *wide, Draw.AUGMIX, chain, 0) + 1
    used = np.broadcast_to(slots < (policy.depth or depth), chosen.shape)
    return build_table(
        NAMES,
        np.floor(chosen * len(NAMES)).astype(np.int64),
        used,
        draw_levels(policy.magnitude, policy.magnitude_std, strength),
        coin,
        smooth,
        frame,
        AUGMIX_KINDS,
    )


def _dirichlet(policy: AugMix, keys: Keys, count: int) -> Floats:
    """(n, width) symmetric Dirichlet weights: each chain breaks a Beta share off what is left."""
    left: Floats = np.ones(count)
    weights = []
    for chain in range(policy.width - 1):
        quantile = uniform(*keys, Draw.AUGMIX_WEIGHT, 1 + chain)
        others = policy.width - 1 - chain
        broken = left * betaincinv(policy.alpha, policy.alpha * others, quantile)
        weights.append(broken)
        left = left - broken
    return np.stack([*weights, left], axis=1)
