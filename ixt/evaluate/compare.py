"""Two models, or two decoders, on the same images: is the difference more than chance?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class McNemar:
    """The exact paired test of two models' top-1 predictions."""

    only_first: int
    """Images that only the first has right."""
    only_second: int
    """Images that only the second has right."""
    p: float
    """Two-sided probability of so unequal a split, were both models equally good."""


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> McNemar:
    """Compare which images two models have right.

    Args:
        first: (n,) whether the first model's prediction is right.
        second: (n,) the same of the second model, on the same images.

    Source: McNemar 1947; the exact form is the binomial test of the images on which they differ.
    """
    from scipy.stats import binomtest

    only_first = int((first & ~second).sum())
    only_second = int((second & ~first).sum())
    different = only_first + only_second
    p = float(binomtest(only_first, different).pvalue) if different else 1.0
    return McNemar(only_first, only_second, p)


def verdict(first: str, second: str, test: McNemar, alpha: float = 0.05) -> str:
    """A test in one sentence.

    Args:
        first: name of the first model.
        second: name of the second.
        test: of the two.
        alpha: the p below which the difference is called one.
    """
    numbers = (
        f"p = {test.p:.3g}; only {first} right: {test.only_first}, "
        f"only {second}: {test.only_second}"
    )
    if test.p >= alpha:
        return f"{first} and {second} do not differ by more than chance ({numbers})"
    better, worse = (first, second) if test.only_first > test.only_second else (second, first)
    return f"{better} is better than {worse} ({numbers})"
