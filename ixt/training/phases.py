"""What a curriculum changes in the model, and in how an update is made, from epoch to epoch."""

from __future__ import annotations

from collections.abc import Callable

from timm.layers import DropPath
from torch import nn

from ixt.kernels import StepGraph
from ixt.training.run import MicroStep, Run


class Phases:
    """Brings a run to the settings of an epoch; without a curriculum it does nothing."""

    def __init__(self, run: Run, choose: Callable[[], MicroStep]) -> None:
        """Take note of the model as its recipe builds it.

        Args:
            run: gets a new `micro_step` where updates are recorded and what is recorded changes.
            choose: makes that, with nothing recorded yet.
        """
        self._run, self._choose = run, choose
        self._drop_paths = DropPaths(run.model)
        self._recorded: tuple[int, float] | None = None

    def begin_epoch(self, epoch: int) -> None:
        """Call it before the first update of an epoch, or of a part of one."""
        recipe = self._run.recipe
        if not recipe.curriculum.phases:
            return
        now = recipe.in_epoch(epoch)
        if recipe.model.drop_path_rate:
            self._drop_paths.scale(now.model.drop_path_rate / recipe.model.drop_path_rate)
        settings = (now.augment.image_size, now.model.drop_path_rate)
        if self._recorded not in (None, settings) and isinstance(self._run.micro_step, StepGraph):
            self._run.micro_step = self._choose()
        self._recorded = settings


class DropPaths:
    """The drop-path layers of a model, with the rates that it was built with."""

    def __init__(self, model: nn.Module) -> None:
        self._rates = [(m, m.drop_prob) for m in model.modules() if isinstance(m, DropPath)]

    def scale(self, share: float) -> None:
        """Give each layer a share of its rate, from 0 to 1."""
        for layer, rate in self._rates:
            layer.drop_prob = rate * share
