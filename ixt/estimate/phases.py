"""Epochs with images of one size, and how fast they go."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import groupby

from torch import nn

from ixt.bench.roofline import Device
from ixt.bench.roofline.expected import training_limit
from ixt.models import model_costs
from ixt.recipe import Recipe


@dataclass(frozen=True)
class Phase:
    """Consecutive epochs whose training images have one size."""

    first_epoch: int
    """Counted from 0."""
    num_epochs: int
    image_size: int
    """Side of the square training image, in pixels."""
    speed: float
    """Images per second over those at the recipe's own size, by the roofline's limits."""


def find_phases(recipe: Recipe, model: nn.Module, device: Device) -> tuple[Phase, ...]:
    """The epochs of a run by the size of their images; all in one without a curriculum.

    Args:
        recipe: resolved.
        model: of the recipe, as `empty_model` makes it.
        device: one GPU.
    """
    own = recipe.augment.image_size
    epochs = range(recipe.schedule.total_epochs)
    sizes = groupby(epochs, key=lambda epoch: recipe.in_epoch(epoch).augment.image_size)
    found = [(side, list(group)) for side, group in sizes]

    @cache
    def limit(side: int) -> float:
        return training_limit(model_costs(model, side), device, recipe)

    return tuple(
        Phase(group[0], len(group), side, 1.0 if side == own else limit(side) / limit(own))
        for side, group in found
    )
