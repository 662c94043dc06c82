"""Random erasing as numbers: where the boxes of each image lie."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ixt.pipeline.plan.hashing import Draw, randint, uniform

Ints = NDArray[np.int64]


_ATTEMPTS = 10  # timm's number of tries per box


@dataclass(frozen=True)
class EraseBoxes:
    """One row per image: the boxes to erase, in order."""

    box: NDArray[np.int32]
    """(n, count, 4): top, left, height, width in pixels; no area where nothing is erased."""

    def __len__(self) -> int:
        return len(self.box)

    def take(self, rows: Any) -> EraseBoxes:
        """The rows that a numpy index selects."""
        return EraseBoxes(self.box[rows])


def draw_boxes(
    keys: tuple[ArrayLike, ...],
    image_size: int,
    *,
    prob: float,
    count: int = 1,
    min_count: int = 1,
    area: tuple[float, float] = (0.02, 1 / 3),
    aspect: tuple[float, float] = (0.3, 1 / 0.3),
) -> EraseBoxes:
    """Draw whether, how often and where each image is erased.

    Args:
        keys: integer keys of the random numbers, such as (seed, epoch, positions).
        image_size: side of the square images in pixels.
        prob: probability that an image is erased.
        count: largest number of boxes; min_count to count are drawn, each of area / number.
        min_count: smallest number of boxes.
        area: range of the erased area as a share of the image's.
        aspect: range of a box's height / width, drawn log-uniformly.

    Source: RandomErasing of timm 1.0.31, attempt by attempt.
    """
    erased = np.atleast_1d(uniform(*keys, Draw.ERASE, 0)) < prob
    number = np.atleast_1d(min_count + randint(count - min_count + 1, *keys, Draw.ERASE, 1))
    boxes = np.zeros((len(erased), count, 4), np.int32)
    for place in range(count):
        first_draw = 2 + 4 * _ATTEMPTS * place
        drawn = _draw_box(keys, image_size, number, first_draw, area, aspect)
        wanted = erased & (place < number)
        boxes[wanted, place] = drawn[wanted]
    return EraseBoxes(boxes)


def _draw_box(
    keys: tuple[ArrayLike, ...],
    size: int,
    number: Ints,
    first_draw: int,
    area: tuple[float, float],
    aspect: tuple[float, float],
) -> NDArray[np.int64]:
    """(n, 4) boxes: the first attempt that fits inside the image, else one without area."""
    boxes = np.zeros((len(number), 4), np.int64)
    open_ = np.ones(len(number), np.bool_)
    low, high = math.log(aspect[0]), math.log(aspect[1])
    for base in range(first_draw, first_draw + 4 * _ATTEMPTS, 4):
        share = area[0] + (area[1] - area[0]) * uniform(*keys, Draw.ERASE, base)
        target = share * (size * size) / number
        shape = np.exp(low + (high - low) * uniform(*keys, Draw.ERASE, base + 1))
        height = np.rint(np.sqrt(target * shape)).astype(np.int64)
        width = np.rint(np.sqrt(target / shape)).astype(np.int64)
        fits = open_ & (height < size) & (width < size)
        top = randint(np.maximum(size - height, 0) + 1, *keys, Draw.ERASE, base + 2)
        left = randint(np.maximum(size - width, 0) + 1, *keys, Draw.ERASE, base + 3)
        boxes[fits] = np.stack([top, left, height, width], axis=1)[fits]
        open_ &= ~fits
        if not open_.any():
            break
    return boxes
