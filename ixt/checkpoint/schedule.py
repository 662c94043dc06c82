"""When to save: after a number of steps or minutes, and before an evaluation."""

from __future__ import annotations

import math

import torch
from accelerate.utils import broadcast

from ixt.checkpoint.writer import CheckpointWriter
from ixt.recipe import Recipe


class SaveSchedule:
    """Answers after every update whether the state is to be saved, the same on every process."""

    def __init__(
        self,
        recipe: Recipe,
        updates_per_epoch: int,
        writer: CheckpointWriter,
        device: torch.device,
    ) -> None:
        """Plan the saves of a run.

        The first process's clock decides; processes exchange numbers on `device`.
        """
        self._settings = recipe.run
        self._evaluate_every = recipe.eval.every_epochs * updates_per_epoch
        self._updates_per_epoch = updates_per_epoch
        self._total = recipe.schedule.total_epochs * updates_per_epoch
        self._writer, self._device = writer, device

    def due(self, step: int) -> bool:
        """Whether to save after this many updates.

        The end of an epoch is saved anyway, with its evaluation; an evaluation that fails, or
        outlasts a queue's patience, must not cost the epoch, so the state is saved before it too.
        """
        if self.ends_epoch(step):
            return self.evaluates(step)
        every = self._settings.checkpoint_every_steps or math.inf
        return step % every == 0 or (self.rows_due(step) and self._due_by_clock())

    def rows_due(self, step: int) -> bool:
        """Whether a log interval ends after this many updates; a save or a stop ends one too."""
        return step % self._settings.log_every_steps == 0 or self.ends_epoch(step)

    def evaluates(self, step: int) -> bool:
        """Whether the epoch that this update ends is evaluated."""
        return step % self._evaluate_every == 0 or step >= self._total

    def ends_epoch(self, step: int) -> bool:
        """Whether this update is the last one of its epoch."""
        return step % self._updates_per_epoch == 0

    def _due_by_clock(self) -> bool:
        minutes = self._settings.checkpoint_every_minutes
        if minutes is None:
            return False
        over = self._writer.minutes_since_start >= minutes
        return bool(broadcast(torch.tensor(over, device=self._device)))
