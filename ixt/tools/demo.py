"""A small real image set in ImageNet layout: the handwritten digits that scikit-learn ships."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ixt.errors import DataError
from ixt.files import local_path, reason, replace_text

CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

_NUM_VAL = 360  # the last fifth
_LEVELS = 16  # brightest grey of load_digits
_QUALITY = 95  # the JPEG round trip then changes a pixel by a third of a grey level on average

_README = """\
Handwritten digits in ImageNet layout, {size} x {size} pixels, written by `ixt data demo`.

Source: E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits, UCI Machine Learning
Repository, 1998, https://archive.ics.uci.edu/dataset/80, licence CC BY 4.0. These are its 1,797
test images of 8 x 8 pixels, as scikit-learn ships them, enlarged and stored as JPEG.

train/ holds the first 1,437 images and val/ the last 360. The scans seem to come writer by writer
(13 in all), so val/ shows hands that train/ does not, but for one writer at the border.
"""


@dataclass(frozen=True)
class DemoSummary:
    """What lies in a demo folder."""

    root: Path
    """The folder to give to `--data`."""
    num_train: int
    num_val: int
    num_written: int
    """Images that this call wrote; 0 where the set was complete."""


@dataclass(frozen=True)
class _Scan:
    path: Path
    pixels: NDArray[np.uint8]  # (8, 8)


def write_demo(root: str | Path, image_size: int = 64) -> DemoSummary:
    """Write the demo set, or complete one that was cut off; the same files on every call.

    The validation images are the last 360 in scikit-learn's order, which seems to go writer by
    writer: harder than a random split (an RBF SVM gets 95.8 % instead of 99.4 %), and honest
    about hands never seen.

    `root` is new or empty, or an earlier demo set of the same size; `image_size` is the side in
    pixels of a bicubic enlargement of the 8 x 8 scans.

    Raises:
        DataError: root holds something else or cannot be written, or scikit-learn is missing.
        ValueError: image_size is below 8.

    Source: test set of UCI's Optical Recognition of Handwritten Digits, through
        sklearn.datasets.load_digits. On its order: scikit-learn's issue 2372.
    """
    if image_size < 8:
        raise ValueError(f"image_size is {image_size}; the scans have 8 x 8 pixels")
    root = local_path(root)
    scans = list(_scans(root))
    try:
        _claim(root, _README.format(size=image_size))
        missing = [scan for scan in scans if not scan.path.exists()]
        for scan in missing:
            _write(scan, image_size)
    except OSError as error:
        raise DataError(
            f"{error.filename or root}: cannot be written ({reason(error)}); choose another folder"
        ) from error
    return DemoSummary(root, len(scans) - _NUM_VAL, _NUM_VAL, len(missing))


def _scans(root: Path) -> Iterator[_Scan]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError(
            "the demo set comes from scikit-learn, which is not installed; pip install 'ixt[demo]'"
        ) from error
    digits = load_digits()
    pixels = np.rint(digits.images * (255 / _LEVELS)).astype(np.uint8)
    first_val = len(pixels) - _NUM_VAL
    for number, (image, label) in enumerate(zip(pixels, digits.target, strict=True)):
        split = "val" if number >= first_val else "train"
        yield _Scan(root / split / CLASSES[label] / f"digit_{number:04}.jpeg", image)


def _claim(root: Path, readme: str) -> None:
    """Make the folder a demo set by its README, unless it holds anything else."""
    marker = root / "README.txt"
    root.mkdir(parents=True, exist_ok=True)
    if marker.exists():
        if marker.read_text(encoding="utf-8", errors="replace") != readme:
            raise DataError(f"{root}: holds another set (see {marker.name}); choose another folder")
    elif any(root.iterdir()):
        raise DataError(f"{root}: is not empty and no demo set; choose a new folder")
    else:
        replace_text(marker, readme)


def _write(scan: _Scan, image_size: int) -> None:
    scan.path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(scan.pixels).resize((image_size, image_size), Image.Resampling.BICUBIC)
    # Hidden, so an index never takes a half-written one; not synced, which would take longer than
    # all the rest.
    part = scan.path.with_name(f".tmp-{scan.path.name}")
    image.save(part, "JPEG", quality=_QUALITY)
    part.replace(scan.path)
