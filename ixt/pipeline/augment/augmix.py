"""AugMix on batches of images, to the grey level as timm does it with numpy and Pillow."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ixt.pipeline.augment.chunks import rows_at_once
from ixt.pipeline.augment.colour import blend
from ixt.pipeline.augment.layers import apply_policy
from ixt.pipeline.augment.upload import upload
from ixt.pipeline.plan.policy.augmix import AugMixTable


def apply_augmix(images: Tensor, table: AugMixTable, fill: tuple[int, ...]) -> Tensor:
    """Mix each image with its chains of operations.

    Args:
        images: (B, 3, S, S) uint8, on any device, in any memory order; left as it is.
        table: one row per image.
        fill: three grey levels for what a geometric operation moves in from outside.

    Returns:
        (B, 3, S, S) uint8, contiguous.

    Raises:
        ValueError: the table's length is not the batch's.
    """
    if len(table) != len(images):
        raise ValueError(f"{len(table)} rows of operations for {len(images)} images")
    result = torch.empty_like(images, memory_format=torch.contiguous_format)
    # Chains of a few images at a time: the sum of a whole batch would leave a CPU's cache.
    size = 8 * rows_at_once(images)
    for start in range(0, len(images), size):
        part = slice(start, start + size)
        rows = table.take(part)
        chains = [apply_policy(images[part], chain, fill) for chain in rows.chains]
        result[part] = (_blended if table.blended else _summed)(images[part], chains, rows)
    return result


def _summed(images: Tensor, chains: list[Tensor], rows: AugMixTable) -> Tensor:
    weights = upload(rows.weights, images.device)[:, :, None, None, None]
    mixed = chains[0] * weights[:, 0]
    for chain, weight in zip(chains[1:], weights.unbind(1)[1:], strict=True):
        mixed += chain * weight
    return _mix(images, mixed.clamp_(0, 255).floor_(), rows.share)


def _blended(images: Tensor, chains: list[Tensor], rows: AugMixTable) -> Tensor:
    result = images
    for chain, share in zip(chains, _shares_in_turn(rows).T, strict=True):
        result = _mix(result, chain.float(), share)
    return result


def _mix(images: Tensor, other: Tensor, share: NDArray[np.float32]) -> Tensor:
    """Blend other into images; share is (n,)."""
    factor = upload(np.ascontiguousarray(share), images.device)[:, None, None, None]
    return blend(images.float(), other, factor)


def _shares_in_turn(rows: AugMixTable) -> NDArray[np.float32]:
    """(n, width) shares of the chains, each of what is there before it is blended in."""
    weights = rows.weights * rows.share[:, None]
    left = np.ones_like(rows.share)
    shares = np.zeros_like(weights)
    for chain in reversed(range(weights.shape[1])):
        # Nothing is left where the later chains have it all.
        np.divide(weights[:, chain], left, out=shares[:, chain], where=left > 0)
        left *= 1 - shares[:, chain]
    return shares
