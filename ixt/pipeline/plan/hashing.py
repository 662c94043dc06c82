"""Counter-based random numbers: pure functions of their keys, vectorised, without state.

A number is addressed by (seed, epoch, position, draw, ...) and costs the same wherever it is
asked for, so a run can start at any position and any batch can be planned by any process.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


class Draw(IntEnum):
    """What a random number is for; part of its key, so no two purposes share numbers.

    The values are part of every run's identity: add new ones, never renumber.
    """

    ORDER = 1
    CROP = 2
    FLIP = 3
    FILTER = 4
    POLICY = 5
    ERASE = 6
    ERASE_NOISE = 7
    MIX = 8
    MODEL = 9
    LEDGER = 10
    SHOTS = 11
    LEDGER_LABELS = 12
    SAMPLING = 13
    AUTO_AUGMENT = 20
    AUGMIX = 21
    AUGMIX_WEIGHT = 22
    TRIVIAL = 23
    JITTER = 24
    CROP_SHIFT = 25


def hash64(*keys: ArrayLike) -> NDArray[np.uint64]:
    """Hash integer keys, broadcast against each other, into uniform 64-bit words.

    Args:
        *keys: integers or integer arrays of any shapes that broadcast.

    Returns:
        uint64 array of the broadcast shape.

    Source: SplitMix64's finaliser (Steele, Lea, Flood 2014), chained over the keys.
    """
    state: NDArray[np.uint64] = np.zeros((), np.uint64)
    with np.errstate(over="ignore"):
        for key in keys:
            word = np.asarray(key).astype(np.int64, copy=False).astype(np.uint64)
            state = _finalise((state ^ word) + _GOLDEN)
    return state


def uniform(*keys: ArrayLike) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1) with 53 random bits, one per broadcast key."""
    return (hash64(*keys) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def randint(high: ArrayLike, *keys: ArrayLike) -> NDArray[np.int64]:
    """Uniform integers in [0, high), one per broadcast key; high may be an array."""
    draw: NDArray[np.float64] = uniform(*keys) * np.asarray(high)
    return np.floor(draw).astype(np.int64)


def _finalise(z: Any) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return np.asarray(z ^ (z >> np.uint64(31)))
