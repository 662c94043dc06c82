"""mixup and CutMix: what each mixing group draws (numpy), and mixing images and targets (torch).

A mixing group is a run of consecutive images that share one draw; image i mixes with image
n - 1 - i of its group, so a group gives the same result in any batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv
from torch import Tensor

from ixt.data.augment import rows_at_once
from ixt.data.hashing import Draw, randint, uniform

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class MixTable:
    """One row per mixing group."""

    lam: Floats
    """(G,) weight of the image itself; 1 where nothing is mixed, 1 - the box's share in CutMix."""
    cutmix: NDArray[np.bool_]
    """(G,): CutMix rather than mixup."""
    box: NDArray[np.int32]
    """(G, 4): top, left, height, width of the partner's part in CutMix; else no area."""

    def __len__(self) -> int:
        return len(self.lam)

    def take(self, rows: Any) -> MixTable:
        """The groups that a numpy index selects."""
        return MixTable(self.lam[rows], self.cutmix[rows], self.box[rows])


def draw_mix(
    keys: tuple[ArrayLike, ...],
    *,
    image_size: int,
    mixup_alpha: float,
    cutmix_alpha: float,
    prob: float = 1.0,
    switch_prob: float = 0.5,
) -> MixTable:
    """Draw how each mixing group is mixed.

    Args:
        keys: integer keys of the random numbers, such as (seed, epoch, group numbers).
        image_size: side of the square images in pixels.
        mixup_alpha: lam ~ Beta(alpha, alpha) in mixup; 0 for no mixup.
        cutmix_alpha: the same in CutMix.
        prob: probability that a group is mixed.
        switch_prob: probability of CutMix where both are on.

    Raises:
        ValueError: neither is on.

    Source: Mixup in batch mode, with corrected lam, of timm 1.0.31.
    """
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
    box = _boxes(keys, image_size, lam)
    box[~cutmix] = 0
    share = box[:, 2] * box[:, 3] / float(image_size * image_size)
    return MixTable(lam=np.where(cutmix, 1.0 - share, lam), cutmix=cutmix, box=box)


def mix_images(images: Tensor, table: MixTable, group_size: int) -> Tensor:
    """Mix the images of each group on grey levels, rounded half to even.

    Args:
        images: (B, 3, S, S) uint8, whole groups; left as they are.
        table: one row per group.
        group_size: images per group, even.

    Returns:
        (B, 3, S, S) uint8; the images themselves where nothing is mixed.

    Raises:
        ValueError: the batch is not as many groups as the table has rows.

    Source: FastCollateMixup of timm 1.0.31, to the grey level.
    """
    _check_groups(len(images), table, group_size)
    if bool((table.lam == 1.0).all()):
        return images
    result = images.clone()
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
        table: one row per group.
        group_size: images per group, even.

    Returns:
        (B, num_classes) float32 on the labels' device.

    Raises:
        ValueError: the batch is not as many groups as the table has rows.

    Source: mixup_target of timm 1.0.31.
    """
    _check_groups(len(labels), table, group_size)
    own = smooth_targets(labels, num_classes, smoothing).view(-1, group_size, num_classes)
    weights = np.stack([table.lam, 1.0 - table.lam]).astype(np.float32)
    lam, rest = torch.from_numpy(weights).to(labels.device)[:, :, None, None]
    mixed: Tensor = own * lam + own.flip(1) * rest
    return mixed.flatten(0, 1)


def _boxes(keys: tuple[ArrayLike, ...], size: int, lam: Floats) -> NDArray[np.int32]:
    """(G, 4) CutMix boxes of area 1 - lam about a random centre, cut off at the image's edge."""
    cut = np.trunc(size * np.sqrt(1.0 - lam)).astype(np.int64)
    centre = np.stack([np.atleast_1d(randint(size, *keys, Draw.MIX, k)) for k in (3, 4)], axis=1)
    start = np.clip(centre - (cut // 2)[:, None], 0, size)
    stop = np.clip(centre + ((cut + 1) // 2)[:, None], 0, size)
    return np.concatenate([start, stop - start], axis=1).astype(np.int32)


def _mixup(images: Tensor, result: Tensor, lam: float) -> None:
    """Mix one group into result, a few pairs at a time."""
    half = len(images) // 2
    size = rows_at_once(images)
    for start in range(0, half, size):
        stop = min(start + size, half)
        front, back = slice(start, stop), slice(len(images) - stop, len(images) - start)
        own, partner = images[front].float(), images[back].flip(0).float()
        result[front] = _weighted(own, partner, lam)
        result[back] = _weighted(partner, own, lam).flip(0)


def _weighted(own: Tensor, partner: Tensor, lam: float) -> Tensor:
    mixed: Tensor = own * lam
    # By way of int16, which a CPU converts three times faster.
    return mixed.add_(partner * (1.0 - lam)).round_().short().to(torch.uint8)


def _check_groups(count: int, table: MixTable, group_size: int) -> None:
    if group_size % 2 or count != len(table) * group_size:
        raise ValueError(
            f"{count} images for {len(table)} groups of {group_size}; give whole, even groups"
        )
