"""Epochs with images of one size, and how fast they go."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path

from ixt.bench.roofline import Device
from ixt.bench.roofline.expected import bench_rates, training_limit
from ixt.costs import Costs
from ixt.errors import EngineError
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
    """Images per second over those at the recipe's own size."""
    speed_basis: str
    """What that rests on: the size is the recipe's `own`, was `measured`, or the `roofline`."""


def find_phases(
    recipe: Recipe,
    costs: Callable[[int], Costs],
    device: Device,
    bench: Path | None,
    num_classes: int,
) -> tuple[Phase, ...]:
    """The epochs of a run by the size of their images; all in one without a curriculum.

    Args:
        recipe: resolved.
        costs: of a training image, by its side in pixels.
        device: one GPU.
        bench: results of `ixt bench`; for sizes that are not in it, the roofline's limits decide.
        num_classes: outputs of the model.
    """
    own = recipe.augment.image_size
    epochs = range(recipe.schedule.total_epochs)
    sizes = groupby(epochs, key=lambda epoch: recipe.in_epoch(epoch).augment.image_size)
    found = [(side, list(group)) for side, group in sizes]

    def limit(side: int) -> float:
        return training_limit(costs(side), device, recipe)

    @cache
    def speed(side: int) -> tuple[float, str]:
        if side == own:
            return 1.0, "own"
        if bench is not None:
            sized = recipe.with_(augment={"image_size": side})
            with suppress(EngineError):
                rates = [bench_rates(bench, r, device, num_classes) for r in (sized, recipe)]
                return rates[0].train / rates[1].train, "measured"
        return limit(side) / limit(own), "roofline"

    return tuple(Phase(group[0], len(group), side, *speed(side)) for side, group in found)
