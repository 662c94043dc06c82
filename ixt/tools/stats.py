"""What a split holds: numbers of its index, and of its pixels. Loads no torch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ixt.errors import escaped
from ixt.files import size_text
from ixt.images.folders import Split
from ixt.images.headers import ImageFormat
from ixt.images.image import DamagedImage, load_image
from ixt.images.index import Index
from ixt.images.progress_lines import Report
from ixt.pipeline.plan.hashing import Draw, hash64

PERCENTILES = (0, 1, 5, 25, 50, 75, 95, 99, 100)
FEW_IMAGES = 100
"""A class with fewer training images than this is named."""

_BINS = 16
_CHUNK = 16  # images that a thread takes at a time
_SHOWN = {0: "least", 5: "5 %", 50: "median", 95: "95 %", 100: "most"}
_BARS = " ▁▂▃▄▅▆▇█"
_NAMED = 5

Triple = tuple[float, float, float]
Column = Literal["height", "width", "shorter_side", "aspect_ratio", "megapixels", "kib"]


@dataclass(frozen=True)
class Distribution:
    """How one quantity is spread over the readable images of a split."""

    percentiles: dict[int, float]
    """Values at PERCENTILES: observed ones, not interpolated."""
    mean: float
    counts: tuple[int, ...]
    """Images per bin; the bins are evenly wide in the logarithm between the extremes."""


@dataclass(frozen=True)
class PixelStats:
    """Per-channel mean and standard deviation over pixels, in units of 1 (255 is 1.0)."""

    mean: Triple
    std: Triple
    num_images: int
    num_pixels: int
    """Pixels per channel; each counts the same, so a large image counts more."""
    exact: bool
    """Over every readable image of the split, not a sample."""
    num_left_out: int
    """Images that cannot be decoded."""


@dataclass(frozen=True)
class SplitStats:
    """What a split holds."""

    folder: str
    num_images: int
    num_classes: int
    num_unreadable: int
    num_bytes: int
    formats: dict[str, int]
    """Images per format of the content."""
    distributions: dict[Column, Distribution]
    images_per_class: tuple[int, float, int]
    """Smallest, median and largest class."""
    small_classes: dict[str, int]
    """Classes with fewer than FEW_IMAGES training images, the smallest first."""
    pixels: PixelStats | None = None

    def row(self) -> dict[str, Any]:
        """Everything as plain data, for JSON."""
        return {
            **vars(self),
            "distributions": {name: vars(d) for name, d in self.distributions.items()},
            "pixels": vars(self.pixels) if self.pixels else None,
        }


def split_stats(
    index: Index, pixels: PixelStats | None = None, split: Split = "train"
) -> SplitStats:
    """Summarise a split from its index, without opening a file.

    `pixels` is what `pixel_stats` gave; classes with few images are named for train only.
    """
    readable = index.formats != ImageFormat.UNREADABLE
    height, width = index.sizes[readable].astype(np.float64).T
    counts = np.bincount(index.labels, minlength=len(index.classes))
    formats = np.bincount(index.formats, minlength=256)
    # A validation set has few images of every class.
    least = FEW_IMAGES if split == "train" else 0
    small = sorted((int(n), name) for n, name in zip(counts, index.classes, strict=True))
    columns: dict[Column, NDArray[np.float64]] = {
        "height": height,
        "width": width,
        "shorter_side": np.minimum(height, width),
        "aspect_ratio": width / height,
        "megapixels": height * width / 1e6,
        "kib": index.num_bytes[readable] / 1024,
    }
    return SplitStats(
        folder=index.name,
        num_images=len(index),
        num_classes=len(index.classes),
        num_unreadable=int((~readable).sum()),
        num_bytes=int(index.num_bytes.sum()),
        formats={f.name: int(formats[f]) for f in ImageFormat if formats[f]},
        distributions={name: _distribution(column) for name, column in columns.items()}
        if readable.any()
        else {},
        images_per_class=(int(counts.min()), float(np.median(counts)), int(counts.max())),
        small_classes={name: n for n, name in small if n < least},
        pixels=pixels,
    )


def pixel_stats(
    index: Index,
    *,
    sample: int | None = None,
    num_threads: int | None = None,
    report: Report | None = None,
) -> PixelStats:
    """Mean and standard deviation of the pixels of whole images, as stored, without resizing.

    The sums are whole numbers, so neither the number of threads nor the order changes a bit.

    A `sample` of images is picked by a hash of their row, the same ones on every call; None takes
    all. `report` is called with (images done, images in all).
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


def _distribution(values: NDArray[np.float64]) -> Distribution:
    at = np.percentile(values, PERCENTILES, method="inverted_cdf")
    logs = np.log(values)
    counts, _ = np.histogram(logs, _BINS, (logs.min(), max(logs.max(), logs.min() + 1e-9)))
    return Distribution(
        percentiles=dict(zip(PERCENTILES, at.tolist(), strict=True)),
        mean=float(values.mean()),
        counts=tuple(counts.tolist()),
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


def print_stats(stats: SplitStats, root: Path | str, console: Console | None = None) -> None:
    """Print a split's numbers: how sizes are spread, then formats, classes and pixels."""
    console = console or Console()
    console.print(f"[bold]{escaped(f'{root}/{stats.folder}')}[/bold]", highlight=False)
    for line in _lines(stats):
        console.print(line, highlight=False, soft_wrap=True)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    for heading in _SHOWN.values():
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("spread (log)", no_wrap=True)
    for name, spread in stats.distributions.items():
        values = [_number(spread.percentiles[percent]) for percent in _SHOWN]
        table.add_row(name.replace("_", " "), *values, _bars(spread.counts))
    console.print(table)


def _lines(stats: SplitStats) -> Iterator[str]:
    low, median, high = stats.images_per_class
    formats = ", ".join(f"{count:,} {name}" for name, count in stats.formats.items())
    yield f"{stats.num_images:,} images, {size_text(stats.num_bytes)}: {formats}"
    each = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    spread = "" if low == high else f", median {median:,g}"
    classes = "1 class" if stats.num_classes == 1 else f"{stats.num_classes:,} classes"
    yield f"{classes} of {each} image{'s' if high != 1 else ''}{spread}"
    if stats.small_classes:
        named = [f"{escaped(name)} ({n})" for name, n in stats.small_classes.items()]
        more = ", ..." if len(named) > _NAMED else ""
        yield (
            f"{len(named):,} of them with fewer than {FEW_IMAGES} training images: "
            f"{', '.join(named[:_NAMED])}{more}"
        )
    if stats.pixels is not None:
        yield _pixels(stats.pixels)


def _pixels(pixels: PixelStats) -> str:
    mean, std = (
        ", ".join(f"{value:.4f}" for value in triple) for triple in (pixels.mean, pixels.std)
    )
    which = "all" if pixels.exact else "a fixed sample of"
    left_out = f"; {pixels.num_left_out:,} cannot be decoded" if pixels.num_left_out else ""
    return (
        f"mean {mean}  std {std}  over every pixel of {which} {pixels.num_images:,} whole images"
        f"{left_out}"
    )


def _bars(counts: tuple[int, ...]) -> str:
    """One character per bin; a single image still gets the smallest bar."""
    top = max(counts)
    return "".join(_BARS[-(-count * (len(_BARS) - 1) // top)] for count in counts)


def _number(value: float) -> str:
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 0.1 else f"{value:.3f}"  # so that the columns stay narrow
