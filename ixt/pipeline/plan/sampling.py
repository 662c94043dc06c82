"""How often an epoch shows each image if rare classes are to be shown more often."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ixt.pipeline.plan.hashing import Draw, hash64

Ints = NDArray[np.int64]

_UNIT = 2**16  # of whole-number shares: the last bits of a power may differ between processors


def class_quotas(counts: Ints, power: float) -> Ints:
    """Places of an epoch that each class gets, in proportion to a power of its images.

    Shares are rounded down; the places that are left go to the largest remainders. A class gets at
    least one.

    Args:
        counts: (C,) images of each class, at least 1.
        power: from 0 (all classes alike) to 1 (all images alike).

    Returns:
        (C,) numbers that sum up to the number of images.

    Source: Kang et al. 2020, "Decoupling Representation and Classifier for Long-Tailed Recognition"
    (arXiv 1910.09217), equation 1: class-balanced sampling is 0, square-root sampling 0.5.
    """
    total = int(counts.sum())
    raised = np.sqrt(counts) if power == 0.5 else counts.astype(np.float64) ** power
    shares = [int(share) for share in np.rint(raised * _UNIT)]  # of any size, as products follow
    parts = [divmod(total * share, sum(shares)) for share in shares]
    quotas = np.array([quota for quota, _ in parts], np.int64)
    left = total - int(quotas.sum())
    by_remainder = sorted(range(len(parts)), key=lambda number: -parts[number][1])
    quotas[by_remainder[:left]] += 1
    return quotas


def resampled(order: Ints, labels: Ints, power: float, keys: tuple[int, int]) -> Ints:
    """An epoch in which each class has its quota.

    Each image of a class is shown quota / images times, rounded down or up: which ones once more,
    or at all, changes from epoch to epoch.

    Args:
        order: (N,) all samples in the epoch's own order, which says which images of a class come
            first.
        labels: (N,) class of each sample.
        power: see `class_quotas`.
        keys: seed and epoch.

    Returns:
        (N,) samples, shuffled anew.
    """
    by_class: Ints = order[np.argsort(labels[order], kind="stable")]
    counts = np.unique(labels, return_counts=True)[1]
    quotas = class_quotas(counts, power)
    classes = np.repeat(np.arange(len(counts)), quotas)
    places = np.arange(len(order))
    turns = places - (np.cumsum(quotas) - quotas)[classes]
    samples: Ints = by_class[(np.cumsum(counts) - counts)[classes] + turns % counts[classes]]
    return samples[np.argsort(hash64(*keys, places, Draw.SAMPLING), kind="stable")]
