"""Epochs with images of one size, and how fast they go."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from ixt.bench.roofline import Device
from ixt.bench.roofline.expected import bench_rates, training_limit
from ixt.costs import Costs
from ixt.errors import EngineError
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
    """Images per second over those at the recipe's own size."""
    speed_basis: str
    """What that rests on: the size is the recipe's `own`, was `measured`, or the `roofline`."""


def find_phases(
    recipe: Recipe,
    costs: Callable[[int], Costs],
    device: Device,
    own_rate: float,
    bench: Path | None,
    num_classes: int,
) -> tuple[Phase, ...]:
    """The epochs of a run by the size of images and micro-batch; one without a curriculum.

    Args:
        recipe: resolved.
        costs: of a training image, by its side in pixels.
        device: one GPU.
        own_rate: training images per second at the recipe's own sizes, by `bench` if there is one.
        bench: results of `ixt bench`; for sizes that are not in it, the roofline's limits decide.
        num_classes: outputs of the model.
    """

    def limit(each: Recipe) -> float:
        return training_limit(costs(each.augment.image_size), device, each)

    def speed(each: Recipe) -> tuple[float, str]:
        if _sizes(each) == _sizes(recipe):
            return 1.0, "own"
        if bench is not None:
            with suppress(EngineError):
                return bench_rates(bench, each, device, num_classes).train / own_rate, "measured"
        return limit(each) / limit(recipe), "roofline"

    phases, first_epoch = [], 0
    each_epoch = map(recipe.in_epoch, range(recipe.schedule.total_epochs))
    for sizes, group in groupby(each_epoch, key=_sizes):
        recipes = list(group)
        phases.append(Phase(first_epoch, len(recipes), *sizes, *speed(recipes[0])))
        first_epoch += len(recipes)
    return tuple(phases)


def _sizes(recipe: Recipe) -> tuple[int, int]:
    return recipe.augment.image_size, recipe.engine.micro_batch_size
