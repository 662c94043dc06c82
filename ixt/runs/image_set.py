"""What a first recipe has to know of a set of images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ixt.errors import DataError
from ixt.files import as_url, local_path
from ixt.images.folders import SPLIT_FOLDERS
from ixt.images.hold_out import load_split, own_val
from ixt.images.index import Index, load_index, target_labels
from ixt.images.label_sets import refuse_sets
from ixt.pipeline.from_recipe import refuse_unreadable

_FEWEST = 10  # images; below, neither training nor validation says anything
_FRACTIONS = ((10_000, 0.2), (100_000, 0.1))  # of sets with fewer images than that
_LEAST_FRACTION = 0.05


@dataclass(frozen=True)
class ImageSet:
    """A set of images in short."""

    root: str
    """An absolute path, or a URL."""
    num_train: int
    num_val: int
    classes: tuple[str, ...]
    side: int
    """Median of the shorter sides of the training images, in pixels."""
    val_fraction: float | None
    """Share of the images that are held out; None where the set has validation images."""


def look_at(data: str) -> ImageSet:
    """Look at a set of images, in any layout that training reads.

    Raises:
        DataError: a classifier cannot be trained on it; the message says why.
    """
    root = as_url(data) or str(local_path(data))
    whole = load_index(root, "train")
    refuse_sets(whole, "ixt init")
    _refuse_useless(whole)
    refuse_unreadable(whole)
    fraction = None if own_val(root) else _fraction(len(whole))
    train, val = (load_split(root, split, fraction) for split in SPLIT_FOLDERS)
    target_labels(val, train.classes)
    refuse_unreadable(val)
    side = int(np.median(train.sizes.min(axis=1)))
    return ImageSet(root, len(train), len(val), train.classes, side, fraction)


def _fraction(num_images: int) -> float:
    return next((share for most, share in _FRACTIONS if num_images < most), _LEAST_FRACTION)


def _refuse_useless(index: Index) -> None:
    if len(index.classes) < 2:
        raise DataError(
            f"{index.place}: holds one class ({index.classes[0]}); a classifier needs at least "
            "two, so put the images of each class into a folder of its own"
        )
    if len(index) < _FEWEST:
        raise DataError(
            f"{index.place}: holds {len(index)} images in {len(index.classes)} classes, too few to "
            f"train and to validate on; collect at least {_FEWEST}, better 20 of each class"
        )
