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
    bench: Path | None,
    num_classes: int,
) -> tuple[Phase, ...]:
    """The epochs of a run by the size of images and micro-batch; one without a curriculum.

    Args:
        recipe: resolved.
        costs: of a training image, by its side in pixels.
        device: one GPU.
        bench: results of `ixt bench`; for sizes that are not in it, the roofline's limits decide.
        num_classes: outputs of the model.
    """

    def sizes(recipe: Recipe) -> tuple[int, int]:
        return recipe.augment.image_size, recipe.engine.micro_batch_size

    def sized(image_size: int, micro_batch: int) -> Recipe:
        return recipe.with_(
            augment={"image_size": image_size}, engine={"micro_batch_size": micro_batch}
        )

    def limit(side: int, micro_batch: int) -> float:
        return training_limit(costs(side), device, sized(side, micro_batch))

    own, epochs = sizes(recipe), range(recipe.schedule.total_epochs)

    @cache
    def speed(*each: int) -> tuple[float, str]:
        if each == own:
            return 1.0, "own"
        if bench is not None:
            with suppress(EngineError):
                rates = [bench_rates(bench, r, device, num_classes) for r in (sized(*each), recipe)]
                return rates[0].train / rates[1].train, "measured"
        return limit(*each) / limit(*own), "roofline"

    found = groupby(epochs, key=lambda epoch: sizes(recipe.in_epoch(epoch)))
    return tuple(
        Phase(next(group), 1 + len(list(group)), *each, *speed(*each)) for each, group in found
    )
