"""Where to cut each image: RandomResizedCrop for training, resize and centre crop for evaluation.

Numbers only; the decoders carry them out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ixt.pipeline.plan.hashing import Draw, randint, uniform

BILINEAR = 1
BICUBIC = 2
FILTERS = {"bilinear": BILINEAR, "bicubic": BICUBIC}

_PADDING = 4  # DeiT III's simple random crop: pixels around the resized image
_ATTEMPTS = 10  # torchvision's and timm's number of tries before the fallback crop


@dataclass(frozen=True)
class Crops:
    """One row per image: cut `window`, resize it, cut a square of `size` at `offset`, flip.

    Training resizes the window to the square itself (offset 0); evaluation resizes the whole
    image and cuts the centre. All coordinates are (top, left) or (height, width) in pixels of
    the stored image, EXIF rotation not applied.
    """

    window: NDArray[np.int32]
    """(n, 4): top, left, height, width."""
    resize: NDArray[np.int32]
    """(n, 2): height, width after resizing the window."""
    offset: NDArray[np.int32]
    """(n, 2): top, left of the square within the resized window."""
    filter: NDArray[np.uint8]
    """(n,): BILINEAR or BICUBIC, always antialiased."""
    hflip: NDArray[np.bool_]
    """(n,): mirror left to right, after resizing."""
    vflip: NDArray[np.bool_]
    """(n,): mirror top to bottom, after resizing."""
    size: int
    """Side of the square result, in pixels."""
    shift: NDArray[np.int64] | None = None
    """(n, 2): rows and columns by which the result is moved, its edge reflected; None for not at
    all. The loader does that, on the training device: the pixels all lie in the square."""

    def __len__(self) -> int:
        return len(self.window)

    def take(self, rows: Any) -> Crops:
        """The crops of some rows: a slice, or an array of their numbers."""
        columns: dict[str, Any] = {
            name: None if column is None else column[rows]
            for name, column in vars(self).items()
            if name != "size"
        }
        return Crops(**columns, size=self.size)


def train_crops(
    sizes: NDArray[np.int32],
    keys: tuple[ArrayLike, ...],
    *,
    size: int,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    interpolation: str = "random",
    hflip: float = 0.5,
    vflip: float = 0.0,
) -> Crops:
    """Draw a RandomResizedCrop, flips and a filter for each image.

    Args:
        sizes: (n, 2) height and width of the stored images.
        keys: integer keys of the random numbers, such as (seed, epoch, positions).
        size: side of the square result in pixels.
        scale: range of the window's area as a fraction of the image's.
        ratio: range of the window's width / height, drawn log-uniformly.
        interpolation: random, bilinear or bicubic.
        hflip: probability of a left-right flip.
        vflip: probability of a top-bottom flip.

    Source: RandomResizedCropAndInterpolation.get_params of timm 1.0.31, attempt by attempt.
    """
    count = len(sizes)
    horizontal, vertical = _flips(count, keys, hflip, vflip)
    return Crops(
        window=_random_windows(sizes, keys, scale, ratio),
        resize=np.full((count, 2), size, np.int32),
        offset=np.zeros((count, 2), np.int32),
        filter=_filters(count, keys, interpolation),
        hflip=horizontal,
        vflip=vertical,
        size=size,
    )


def simple_crops(
    sizes: NDArray[np.int32],
    keys: tuple[ArrayLike, ...],
    *,
    size: int,
    interpolation: str = "bicubic",
    hflip: float = 0.5,
    vflip: float = 0.0,
) -> Crops:
    """Resize the shorter side to size, reflect four pixels around, cut a random square, flip.

    The arguments are those of `train_crops`.

    Source: the simple random crop of Touvron et al. 2022, "DeiT III" (arXiv 2204.07118), which
    is torchvision's Resize and RandomCrop(size, padding=4, padding_mode="reflect").
    """
    count = len(sizes)
    resize = _short_side(sizes, size)
    room = resize - size
    drawn = [randint(room[:, k] + 2 * _PADDING + 1, *keys, Draw.CROP_SHIFT, k) for k in (0, 1)]
    wanted = np.stack(drawn, axis=1) - _PADDING
    offset = np.clip(wanted, 0, room)
    horizontal, vertical = _flips(count, keys, hflip, vflip)
    # The square is flipped before it is moved.
    sign = np.where(np.stack([vertical, horizontal], axis=1), -1, 1)
    zeros = np.zeros(count, np.int32)
    return Crops(
        window=np.stack([zeros, zeros, *sizes.T], axis=1).astype(np.int32),
        resize=resize.astype(np.int32),
        offset=offset.astype(np.int32),
        filter=_filters(count, keys, interpolation),
        hflip=horizontal,
        vflip=vertical,
        size=size,
        shift=sign * (wanted - offset),
    )


def eval_crops(
    sizes: NDArray[np.int32],
    *,
    size: int,
    crop_pct: float = 0.875,
    interpolation: str = "bicubic",
    squash: bool = False,
) -> Crops:
    """Resize the shorter side to size / crop_pct, cut the centre; torchvision's rounding.

    Args:
        sizes: (n, 2) height and width of the stored images.
        size: side of the square result in pixels.
        crop_pct: share of the resized shorter side that is kept.
        interpolation: bilinear or bicubic.
        squash: resize both sides to size / crop_pct instead, whatever the aspect ratio.

    Source: torchvision Resize and CenterCrop, which timm's transforms_imagenet_eval uses.
    """
    height, width = sizes[:, 0], sizes[:, 1]
    short = math.floor(size / crop_pct)
    resize = _short_side(sizes, short)
    if squash:
        resize = np.full_like(resize, short)
    # np.rint rounds halves to even, as Python's round in torchvision's center_crop does.
    offset = np.rint((resize - size) / 2)
    zeros = np.zeros(len(sizes), np.int32)
    no_flip = zeros.astype(np.bool_)
    return Crops(
        window=np.stack([zeros, zeros, height, width], axis=1).astype(np.int32),
        resize=resize.astype(np.int32),
        offset=offset.astype(np.int32),
        filter=np.full(len(sizes), FILTERS[interpolation], np.uint8),
        hflip=no_flip,
        vflip=no_flip,
        size=size,
    )


def _short_side(sizes: NDArray[np.int32], short: int) -> NDArray[np.int64]:
    """(n, 2) height and width with the shorter side as given, rounded as torchvision does."""
    height, width = sizes[:, 0].astype(np.int64), sizes[:, 1].astype(np.int64)
    tall = height > width
    return np.stack(
        [
            np.where(tall, short * height // width, short),
            np.where(tall, short, short * width // height),
        ],
        axis=1,
    )


def _flips(
    count: int, keys: tuple[ArrayLike, ...], hflip: float, vflip: float
) -> list[NDArray[np.bool_]]:
    """(n,) whether each image is mirrored left to right, and top to bottom."""
    return [
        np.broadcast_to(uniform(*keys, Draw.FLIP, axis) < prob, (count,))
        for axis, prob in enumerate((hflip, vflip))
    ]


def _filters(count: int, keys: tuple[ArrayLike, ...], interpolation: str) -> NDArray[np.uint8]:
    """(n,) BILINEAR or BICUBIC; random draws one for each image."""
    if interpolation == "random":
        return np.where(uniform(*keys, Draw.FILTER) < 0.5, BILINEAR, BICUBIC).astype(np.uint8)
    return np.full(count, FILTERS[interpolation], np.uint8)


def _random_windows(
    sizes: NDArray[np.int32],
    keys: tuple[ArrayLike, ...],
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> NDArray[np.int32]:
    """(n, 4) windows: the first attempt that fits inside the image, else the central fallback."""
    height, width = sizes[:, 0].astype(np.int64), sizes[:, 1].astype(np.int64)
    area = height * width
    windows = _central_windows(height, width, ratio)
    open_ = np.ones(len(sizes), np.bool_)
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for attempt in range(_ATTEMPTS):
        base = 4 * attempt
        target = area * (scale[0] + (scale[1] - scale[0]) * uniform(*keys, Draw.CROP, base))
        aspect = np.exp(low + (high - low) * uniform(*keys, Draw.CROP, base + 1))
        w = np.rint(np.sqrt(target * aspect)).astype(np.int64)
        h = np.rint(np.sqrt(target / aspect)).astype(np.int64)
        fits = open_ & (w >= 1) & (h >= 1) & (w <= width) & (h <= height)
        top = randint(np.maximum(height - h, 0) + 1, *keys, Draw.CROP, base + 2)
        left = randint(np.maximum(width - w, 0) + 1, *keys, Draw.CROP, base + 3)
        windows[fits] = np.stack([top, left, h, w], axis=1)[fits]
        open_ &= ~fits
        if not open_.any():
            break
    return windows.astype(np.int32)


def _central_windows(
    height: NDArray[np.int64], width: NDArray[np.int64], ratio: tuple[float, float]
) -> NDArray[np.int64]:
    """(n, 4) largest central windows within the aspect range."""
    aspect = width / height
    w = np.where(aspect > ratio[1], np.rint(height * ratio[1]), width).astype(np.int64)
    h = np.where(aspect < ratio[0], np.rint(width / ratio[0]), height).astype(np.int64)
    return np.stack([(height - h) // 2, (width - w) // 2, h, w], axis=1)
