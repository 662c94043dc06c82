"""From grey levels to what a model takes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ixt.pipeline.augment.chunks import rows_at_once
from ixt.pipeline.augment.upload import upload


def interleave(images: Tensor) -> Tensor:
    """The same images in channels_last order; cheaper for bytes than for normalised values.

    Args:
        images: (B, 3, S, S) uint8, in any memory order.

    Returns:
        (B, 3, S, S) uint8 in channels_last order; the images themselves where they are so.
    """
    order = torch.channels_last
    if images.device.type != "cpu" or images.is_contiguous(memory_format=order):
        return images.contiguous(memory_format=order)
    result = torch.empty_like(images, memory_format=order)
    # numpy, a channel at a time, is three times faster than torch.
    for channel in range(images.shape[1]):
        result.numpy()[:, channel] = images.numpy()[:, channel]
    return result


def normalise(
    images: Tensor,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    channels_last: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """Subtract 255 * mean and divide by 255 * std, per channel; the memory order is kept.

    Args:
        images: (B, 3, S, S) uint8.
        mean: per-channel mean of values scaled to [0, 1].
        std: per-channel standard deviation, likewise.
        channels_last: bring the images into that order first.
        out: where to, (B, 3, S, S) float32; fastest in the images' memory order.

    Returns:
        (B, 3, S, S) float32, a new tensor if none was given.

    Source: PrefetchLoader of timm 1.0.31, to the last bit.
    """
    if channels_last:
        images = interleave(images)
    result = torch.empty_like(images, dtype=torch.float32) if out is None else out
    grey_mean, grey_std = (
        np.array([255 * v for v in triple], np.float32) for triple in (mean, std)
    )
    # As whole images in the batch's memory order: broadcasting three numbers over channels_last
    # would leave a CPU with loops of length three.
    like = torch.empty_like(images[:1], dtype=torch.float32)
    shift, spread = (
        like.clone().copy_(upload(triple, images.device).view(3, 1, 1))
        for triple in (grey_mean, grey_std)
    )
    size = rows_at_once(images)
    for part, source in zip(torch.split(result, size), torch.split(images, size), strict=True):
        part.copy_(source).sub_(shift).div_(spread)
    return result
