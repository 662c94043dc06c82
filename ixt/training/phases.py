"""What a curriculum changes in the model, and in how an update is made, from epoch to epoch."""

from __future__ import annotations

from collections.abc import Callable

from timm.layers import DropPath
from torch import nn

from ixt.monitor import activity
from ixt.recipe import Recipe
from ixt.training.run import MicroStep, Run


class Phases:
    """Brings a run to the settings of an epoch; without a curriculum it does nothing."""

    def __init__(self, run: Run, choose: Callable[[], MicroStep]) -> None:
        """Take note of the model as its recipe builds it.

        Args:
            run: gets a new `micro_step` where what an update does changes.
            choose: makes that, with nothing recorded yet.
        """
        self._run, self._choose = run, choose
        self._drop_paths = DropPaths(run.model)
        self.now = run.recipe
        """The recipe of the epoch."""

    def begin_epoch(self, epoch: int) -> None:
        """Call it before the first update of an epoch, or of a part of one."""
        recipe = self._run.recipe
        if not recipe.curriculum.phases:
            return
        before, self.now = self.now, recipe.in_epoch(epoch)
        now = self.now
        if recipe.model.drop_path_rate:
            self._drop_paths.scale(now.model.drop_path_rate / recipe.model.drop_path_rate)
        if _of_an_update(before) != _of_an_update(now):
            accelerator = self._run.accelerator
            count = now.engine.micro_batches // accelerator.num_processes
            accelerator.gradient_accumulation_steps = count
            self._run.micro_step = self._choose()
            activity.cold()


def _of_an_update(recipe: Recipe) -> tuple[int, int, float]:
    """What an update was made for, and recorded with."""
    size = recipe.augment.image_size
    return size, recipe.engine.micro_batch_size, recipe.model.drop_path_rate


class DropPaths:
    """The drop-path layers of a model, with the rates that it was built with."""

    def __init__(self, model: nn.Module) -> None:
        self._rates = [(m, m.drop_prob) for m in model.modules() if isinstance(m, DropPath)]

    def scale(self, share: float) -> None:
        """Give each layer a share of its rate, from 0 to 1."""
        for layer, rate in self._rates:
            layer.drop_prob = rate * share
