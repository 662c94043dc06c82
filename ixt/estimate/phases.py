"""Epochs with images of one size, and how fast they go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import groupby

from ixt.bench.roofline import Device
from ixt.bench.roofline.expected import training_limit
from ixt.costs import Costs
from ixt.recipe import Recipe


@dataclass(frozen=True)
class Phase:
    """Consecutive epochs whose training images and micro-batches have one size."""

    first_epoch: int
    """Counted from 0."""
    num_epochs: int
    image_size: int
    """Side of the square training image, in pixels."""
    micro_batch: int
    """Images per forward pass of one GPU."""
    speed: float
    """Images per second over those at the recipe's own size, by the roofline's limits."""


def find_phases(recipe: Recipe, costs: Callable[[int], Costs], device: Device) -> tuple[Phase, ...]:
    """The epochs of a run by the size of images and micro-batch; one without a curriculum.

    Args:
        recipe: resolved.
        costs: of a training image, by its side in pixels.
        device: one GPU.
    """

    def sizes(recipe: Recipe) -> tuple[int, int]:
        return recipe.augment.image_size, recipe.engine.micro_batch_size

    @cache
    def limit(side: int, micro_batch: int) -> float:
        sized = recipe.with_(engine={"micro_batch_size": micro_batch})
        return training_limit(costs(side), device, sized)

    own, epochs = sizes(recipe), range(recipe.schedule.total_epochs)
    found = groupby(epochs, key=lambda epoch: sizes(recipe.in_epoch(epoch)))
    return tuple(
        Phase(next(group), 1 + len(list(group)), *each, limit(*each) / limit(*own))
        for each, group in found
    )
