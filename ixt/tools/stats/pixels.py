"""Mean and standard deviation of the pixels of a split, exactly."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from ixt.images.image import DamagedImage, load_image
from ixt.images.index import Index
from ixt.images.progress_lines import Report
from ixt.pipeline.plan.hashing import Draw, hash64
from ixt.tools.stats.split import PixelStats, Triple

_CHUNK = 16


def pixel_stats(
    index: Index,
    *,
    sample: int | None = None,
    num_threads: int | None = None,
    report: Report | None = None,
) -> PixelStats:
    """Mean and standard deviation of the pixels of whole images, as stored, without resizing.

    The sums are whole numbers, so neither the number of threads nor the order changes a bit.

    Args:
        index: the split.
        sample: images to take, picked by a hash of their row, the same ones on every call; None
            takes all.
        num_threads: CPU threads that decode; None for as many as this process may use.
        report: called with (images done, images in all).
    """
    rows = _sample(len(index), sample)
    sources = index.ranges(rows)
    starts = range(0, len(sources), _CHUNK)

    def count_chunk(start: int) -> tuple[NDArray[np.int64], int]:
        counts = np.zeros((3, 256), np.int64)
        num_decoded = 0
        for source in sources[start : start + _CHUNK]:
            try:
                counts += np.array(load_image(source).histogram(), np.int64).reshape(3, 256)
                num_decoded += 1
            except DamagedImage:
                continue
        return counts, num_decoded

    total, num_decoded = np.zeros((3, 256), np.int64), 0
    pool = ThreadPoolExecutor(num_threads or len(os.sched_getaffinity(0)))
    try:
        for start, (counts, decoded) in zip(starts, pool.map(count_chunk, starts), strict=True):
            total += counts
            num_decoded += decoded
            if report is not None:
                report(min(start + _CHUNK, len(sources)), len(sources))
    finally:
        pool.shutdown(cancel_futures=True)
    mean, std = _moments(total)
    return PixelStats(
        mean=mean,
        std=std,
        num_images=num_decoded,
        num_pixels=int(total[0].sum()),
        exact=len(sources) == len(index),
        num_left_out=len(sources) - num_decoded,
    )


def _sample(num_images: int, sample: int | None) -> NDArray[np.int64]:
    """Row numbers to take, in the order of the index."""
    rows = np.arange(num_images)
    if sample is None or sample >= num_images:
        return rows
    # The first ones in an order that training takes, too: that of seed 0 in epoch 0.
    order = np.argsort(hash64(0, 0, rows, Draw.ORDER), kind="stable")
    return np.sort(order[:sample])


def _moments(counts: NDArray[np.int64]) -> tuple[Triple, Triple]:
    """Mean and standard deviation of each channel from its histogram."""
    means, stds = [], []
    for channel in counts.tolist():
        # Python's whole numbers: a sum of squares over ImageNet does not fit 53 bits.
        number = sum(channel)
        first = sum(level * n for level, n in enumerate(channel))
        second = sum(level * level * n for level, n in enumerate(channel))
        mean = first / number if number else float("nan")
        variance = (number * second - first * first) / number**2 if number else float("nan")
        means.append(mean / 255)
        stds.append(variance**0.5 / 255)
    return (means[0], means[1], means[2]), (stds[0], stds[1], stds[2])
