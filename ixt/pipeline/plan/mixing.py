"""mixup and CutMix as numbers: what each mixing group draws.

A mixing group is a run of consecutive images that mix among themselves: image i with image
n - 1 - i, so a group gives the same result in any batch. The mode says who shares a draw: the
whole group (timm calls it batch), the two images of a pair, or nobody (elem).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv

from ixt.pipeline.plan.hashing import Draw, randint, uniform

Floats = NDArray[np.float64]
Mode = Literal["batch", "pair", "elem"]


@dataclass(frozen=True)
class MixTable:
    """One row per draw: a mixing group, a pair of it or an image, as the mode says.

    A group's pairs are counted by their first images.
    """

    lam: Floats
    """(G,) weight of the image itself; 1 where nothing is mixed, 1 - the box's share in CutMix."""
    cutmix: NDArray[np.bool_]
    """(G,): CutMix rather than mixup."""
    box: NDArray[np.int32]
    """(G, 4): top, left, height, width of the partner's part in CutMix; else no area."""
    mode: Mode = "batch"
    """Who shares a draw."""

    def __len__(self) -> int:
        return len(self.lam)

    def take(self, rows: Any) -> MixTable:
        """The draws that a numpy index selects."""
        return MixTable(self.lam[rows], self.cutmix[rows], self.box[rows], self.mode)

    def per_image(self, group_size: int) -> MixTable:
        """The same with one row for each image of the groups."""
        count = {"batch": 1, "pair": group_size // 2, "elem": group_size}[self.mode]
        rows = np.arange(len(self)).reshape(-1, count)
        if self.mode == "batch":
            rows = rows.repeat(group_size, axis=1)
        elif self.mode == "pair":
            rows = np.concatenate([rows, rows[:, ::-1]], axis=1)
        table = self.take(rows.ravel())
        return MixTable(table.lam, table.cutmix, table.box, "elem")


def draw_mix(
    keys: tuple[ArrayLike, ...],
    *,
    image_size: int,
    mixup_alpha: float,
    cutmix_alpha: float,
    cutmix_minmax: tuple[float, float] | None = None,
    prob: float = 1.0,
    switch_prob: float = 0.5,
    mode: Mode = "batch",
) -> MixTable:
    """Draw how each mixing group, pair or image is mixed.

    Args:
        keys: integer keys of the random numbers: (seed, epoch, numbers), where a number stands
            for a group, a pair or an image.
        image_size: side of the square images in pixels.
        mixup_alpha: lam ~ Beta(alpha, alpha) in mixup; 0 for no mixup.
        cutmix_alpha: the same in CutMix.
        cutmix_minmax: range of the box's sides as shares of the image's, instead of a lam from
            cutmix_alpha.
        prob: probability of being mixed.
        switch_prob: probability of CutMix where both are on.
        mode: who shares a draw.

    Raises:
        ValueError: neither is on.

    Source: Mixup with corrected lam of timm 1.0.31.
    """
    if cutmix_minmax is not None:
        cutmix_alpha = 1.0  # as timm does; lam then only says whether there is a box
    if mixup_alpha <= 0 and cutmix_alpha <= 0:
        raise ValueError("mixup_alpha and cutmix_alpha are both 0: nothing to draw")
    mixed, switch, quantile = (np.atleast_1d(uniform(*keys, Draw.MIX, k)) for k in range(3))
    if mixup_alpha > 0 and cutmix_alpha > 0:
        cutmix = switch < switch_prob
    else:
        cutmix = np.full(switch.shape, cutmix_alpha > 0)
    alpha = np.where(cutmix, cutmix_alpha, mixup_alpha)
    lam = np.where(mixed < prob, betaincinv(alpha, alpha, quantile), 1.0)
    cutmix &= mixed < prob
    if cutmix_minmax is None:
        box = _boxes(keys, image_size, lam)
    else:
        box = _ranged_boxes(keys, image_size, cutmix_minmax)
    box[~cutmix] = 0
    share = box[:, 2] * box[:, 3] / float(image_size * image_size)
    return MixTable(lam=np.where(cutmix, 1.0 - share, lam), cutmix=cutmix, box=box, mode=mode)


def _boxes(keys: tuple[ArrayLike, ...], size: int, lam: Floats) -> NDArray[np.int32]:
    """(G, 4) CutMix boxes of area 1 - lam about a random centre, cut off at the image's edge."""
    cut = np.trunc(size * np.sqrt(1.0 - lam)).astype(np.int64)
    centre = np.stack([np.atleast_1d(randint(size, *keys, Draw.MIX, k)) for k in (3, 4)], axis=1)
    start = np.clip(centre - (cut // 2)[:, None], 0, size)
    stop = np.clip(centre + ((cut + 1) // 2)[:, None], 0, size)
    return np.concatenate([start, stop - start], axis=1).astype(np.int32)


def _ranged_boxes(
    keys: tuple[ArrayLike, ...], size: int, minmax: tuple[float, float]
) -> NDArray[np.int32]:
    """(G, 4) CutMix boxes inside the image, with sides drawn from a range."""
    low, high = int(size * minmax[0]), int(size * minmax[1])
    sides = [np.atleast_1d(low + randint(high - low, *keys, Draw.MIX, k)) for k in (5, 6)]
    starts = [
        np.atleast_1d(randint(size - side + 1, *keys, Draw.MIX, k))
        for side, k in zip(sides, (3, 4), strict=True)
    ]
    return np.stack([*starts, *sides], axis=1).astype(np.int32)
