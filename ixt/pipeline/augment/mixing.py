"""mixup and CutMix: what each mixing group draws (numpy), and mixing images and targets (torch).

A mixing group is a run of consecutive images that mix among themselves: image i with image
n - 1 - i, so a group gives the same result in any batch. The mode says who shares a draw: the
whole group (timm calls it batch), the two images of a pair, or nobody (elem).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv
from torch import Tensor

from ixt.pipeline.augment import rows_at_once
from ixt.pipeline.augment.upload import upload
from ixt.pipeline.plan.hashing import Draw, randint, uniform

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
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


def mix_images(images: Tensor, table: MixTable, group_size: int) -> Tensor:
    """Mix the images of each group on grey levels, rounded half to even.

    Args:
        images: (B, 3, S, S) uint8, whole groups; left as they are.
        table: the groups' rows.
        group_size: images per group, even.

    Returns:
        (B, 3, S, S) uint8; the images themselves where nothing is mixed.

    Raises:
        ValueError: the batch is not the groups that the table has rows for.

    Source: FastCollateMixup of timm 1.0.31, to the grey level.
    """
    _check_groups(len(images), table, group_size)
    if bool((table.lam == 1.0).all()):
        return images
    result = images.clone()
    if table.mode != "batch":
        _mix_each(images, result, table.per_image(group_size), group_size)
        return result
    for group in np.flatnonzero(table.lam != 1.0).tolist():
        span = slice(group * group_size, (group + 1) * group_size)
        if table.cutmix[group]:
            top, left, height, width = table.box[group].tolist()
            window = (..., slice(top, top + height), slice(left, left + width))
            result[span][window] = images[span][window].flip(0)
        else:
            _mixup(images[span], result[span], float(table.lam[group]))
    return result


def smooth_targets(labels: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """One-hot rows with label smoothing; a label of -1 gives a row of zeros.

    Args:
        labels: (B,) int64.
        num_classes: columns of the result.
        smoothing: probability spread evenly over all classes.

    Returns:
        (B, num_classes) float32 on the labels' device.
    """
    rest = smoothing / num_classes
    targets = torch.full((len(labels), num_classes), rest, device=labels.device)
    targets.scatter_(1, labels.clamp_min(0)[:, None], 1.0 - smoothing + rest)
    return targets.mul_((labels >= 0)[:, None])


def mix_targets(
    labels: Tensor, num_classes: int, smoothing: float, table: MixTable, group_size: int
) -> Tensor:
    """Smoothed targets, mixed as mix_images mixes the images.

    Args:
        labels: (B,) int64, whole groups; -1 counts as a target of zeros.
        num_classes: columns of the result.
        smoothing: probability spread evenly over all classes.
        table: the groups' rows.
        group_size: images per group, even.

    Returns:
        (B, num_classes) float32 on the labels' device.

    Raises:
        ValueError: the batch is not the groups that the table has rows for.

    Source: mixup_target of timm 1.0.31.
    """
    _check_groups(len(labels), table, group_size)
    own = smooth_targets(labels, num_classes, smoothing).view(-1, group_size, num_classes)
    rows = table if table.mode == "batch" else table.per_image(group_size)
    weights = upload(np.stack(_weights(rows)), labels.device)
    lam, rest = weights.view(2, len(own), -1, 1)
    mixed: Tensor = own * lam + own.flip(1) * rest
    return mixed.flatten(0, 1)


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


def _weights(table: MixTable) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """float32 weights of the image and of its partner, rounded where timm rounds them."""
    if table.mode == "batch":
        return table.lam.astype(np.float32), (1.0 - table.lam).astype(np.float32)
    own = table.lam.astype(np.float32)
    return own, 1 - own


def _mix_each(images: Tensor, result: Tensor, table: MixTable, group_size: int) -> None:
    """Mix each image into result by a row of its own."""
    row = np.arange(len(images))
    partner = row - row % group_size + group_size - 1 - row % group_size
    for k in np.flatnonzero(table.cutmix).tolist():
        top, left, height, width = table.box[k].tolist()
        window = (slice(None), slice(top, top + height), slice(left, left + width))
        result[k][window] = images[int(partner[k])][window]
    blended = np.flatnonzero((table.lam != 1.0) & ~table.cutmix)
    weights = np.stack(_weights(table))
    size = rows_at_once(images)
    for start in range(0, len(blended), size):
        rows = blended[start : start + size]
        own, other = (upload(k, images.device) for k in (rows, partner[rows]))
        lam, rest = upload(weights[:, rows], images.device)[..., None, None, None]
        taken = [images.index_select(0, k).float() for k in (own, other)]
        result[own] = _weighted(taken[0], taken[1], lam, rest)


def _mixup(images: Tensor, result: Tensor, lam: float) -> None:
    """Mix one group into result, a few pairs at a time."""
    half = len(images) // 2
    size = rows_at_once(images)
    for start in range(0, half, size):
        stop = min(start + size, half)
        front, back = slice(start, stop), slice(len(images) - stop, len(images) - start)
        own, partner = images[front].float(), images[back].flip(0).float()
        result[front] = _weighted(own, partner, lam, 1.0 - lam)
        result[back] = _weighted(partner, own, lam, 1.0 - lam).flip(0)


def _weighted(own: Tensor, partner: Tensor, lam: float | Tensor, rest: float | Tensor) -> Tensor:
    mixed: Tensor = own * lam
    # By way of int16, which a CPU converts three times faster.
    return mixed.add_(partner * rest).round_().short().to(torch.uint8)


def _check_groups(count: int, table: MixTable, group_size: int) -> None:
    rows = {"batch": 1, "pair": group_size // 2, "elem": group_size}[table.mode]
    if group_size % 2 or len(table) % rows or count * rows != len(table) * group_size:
        raise ValueError(
            f"{count} images for {len(table) / rows:g} groups of {group_size}; "
            "give whole, even groups"
        )
