"""Pixels to look at, from what the network gets."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ixt.recipe import Recipe


def denormalise(image: Tensor, recipe: Recipe) -> NDArray[np.uint8]:
    """Undo normalisation, exactly where the image was grey levels before.

    Args:
        image: (3, S, S) float32, on any device.
        recipe: its section augment has mean and std.

    Returns:
        (S, S, 3); what lies outside 0..255 is clipped.
    """
    mean, std = (
        torch.tensor([255 * value for value in triple]).view(3, 1, 1)
        for triple in (recipe.augment.mean, recipe.augment.std)
    )
    pixels = (image.cpu() * std + mean).round_().clamp_(0, 255).to(torch.uint8)
    return np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())
