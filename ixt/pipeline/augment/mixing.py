"""mixup and CutMix carried out: images and targets of mixing groups, on their device."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ixt.pipeline.augment.chunks import rows_at_once
from ixt.pipeline.augment.upload import upload
from ixt.pipeline.plan.mixing import MixTable


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


def smooth_targets(
    labels: Tensor, num_classes: int, smoothing: float, sets: Tensor | None = None
) -> Tensor:
    """One-hot rows with label smoothing; a label of -1 gives a row of zeros.

    Args:
        labels: (B,) int64.
        num_classes: columns of the result.
        smoothing: probability spread evenly over all classes.
        sets: (S, num_classes) bool, the classes that a label stands for, each of which gets what
            the one class gets else; None where labels are classes.

    Returns:
        (B, num_classes) float32 on the labels' device.
    """
    rest = smoothing / num_classes
    targets = torch.full((len(labels), num_classes), rest, device=labels.device)
    if sets is None:
        targets.scatter_(1, labels.clamp_min(0)[:, None], 1.0 - smoothing + rest)
    else:
        targets.masked_fill_(sets[labels.clamp_min(0)], 1.0 - smoothing + rest)
    return targets.mul_((labels >= 0)[:, None])


def mix_targets(
    labels: Tensor,
    num_classes: int,
    smoothing: float,
    table: MixTable,
    group_size: int,
    sets: Tensor | None = None,
) -> Tensor:
    """Smoothed targets, mixed as mix_images mixes the images.

    Args:
        labels: (B,) int64, whole groups; -1 counts as a target of zeros.
        num_classes: columns of the result.
        smoothing: probability spread evenly over all classes.
        table: the groups' rows.
        group_size: images per group, even.
        sets: as for `smooth_targets`.

    Returns:
        (B, num_classes) float32 on the labels' device.

    Raises:
        ValueError: the batch is not the groups that the table has rows for.

    Source: mixup_target of timm 1.0.31.
    """
    _check_groups(len(labels), table, group_size)
    own = smooth_targets(labels, num_classes, smoothing, sets).view(-1, group_size, num_classes)
    rows = table if table.mode == "batch" else table.per_image(group_size)
    weights = upload(np.stack(_weights(rows)), labels.device)
    lam, rest = weights.view(2, len(own), -1, 1)
    mixed: Tensor = own * lam + own.flip(1) * rest
    return mixed.flatten(0, 1)


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
