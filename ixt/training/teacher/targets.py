"""What a teacher adds to the targets of a run: computed beside the model, or read from a cache."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from ixt.checkpoint.folder import sha256
from ixt.checkpoint.weight_files import find_weights
from ixt.errors import CheckpointError, DataError
from ixt.images.data_digest import DataDigest
from ixt.pipeline.loader import Batch
from ixt.recipe import Recipe
from ixt.training.teacher.cache import (
    decode,
    open_cache,
    plan_of,
    refuse_other_plan,
    refuse_other_teacher,
)
from ixt.training.teacher.network import TeacherNetwork

_SHOWN = 5  # epochs in a message


class LiveTeacher:
    """A teacher that computes while the model trains."""

    def __init__(self, network: TeacherNetwork) -> None:
        self._network, self.facts = network, {**network.facts, "outputs": "live"}

    def check_epochs(self, epochs: Iterable[int]) -> None:
        """It has outputs for every epoch."""

    def targets(self, step: int, batch: Batch) -> Tensor:
        """See `CachedTeacher.targets`."""
        return torch.stack((batch.targets, self._network(batch.images)), dim=1)


class CachedTeacher:
    """The outputs of a teacher that `ixt teach` wrote, by position."""

    def __init__(
        self, recipe: Recipe, images: DataDigest, num_classes: int, device: torch.device
    ) -> None:
        """Open the cache of a recipe.

        Args:
            recipe: resolved; its teacher has a cache.
            images: digest of the training set.
            num_classes: outputs of the run's model.
            device: of the training step.

        Raises:
            IxtError: the cache is of other inputs, of another teacher, or of other classes.
        """
        settings = recipe.teacher
        assert settings.cache is not None
        self._cache = open_cache(Path(settings.cache))
        self._engine, self._device = recipe.engine, device
        contents = self._cache.contents
        refuse_other_plan(self._cache, plan_of(recipe, images))
        if settings.checkpoint is not None:
            refuse_other_teacher(self._cache, _digest_of(settings.checkpoint), settings.checkpoint)
        if contents.num_classes != num_classes:
            raise DataError(
                f"{settings.cache}: its teacher has {contents.num_classes} classes, and the model "
                f"has {num_classes}; give a cache of the same classes"
            )
        kept = "all" if contents.top == num_classes else f"top {contents.top}"
        self.facts = {**contents.teacher, "outputs": kept}
        self._updates_per_epoch = contents.num_rows // recipe.engine.global_batch_size
        self._rows: tuple[int, NDArray[Any]] | None = None

    def check_epochs(self, epochs: Iterable[int]) -> None:
        """Refuse epochs, counted from 0, that the cache does not have.

        Raises:
            DataError: it names them.
        """
        missing = self._cache.missing(epochs)
        if missing:
            more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
            raise DataError(
                f"{self._cache.folder}: contains no outputs of epochs "
                f"{', '.join(map(str, missing[:_SHOWN]))}{more}; write them: ixt teach RECIPE "
                f"--out {self._cache.folder} --epochs {missing[0]}:{missing[-1] + 1}"
            )

    def targets(self, step: int, batch: Batch) -> Tensor:
        """The targets of a micro-batch of an update, and what the teacher says about its images.

        Returns:
            (B, 2, num_classes) float32: the batch's own targets, and log-probabilities.

        Raises:
            DataError: the file of the epoch is damaged.
        """
        epoch, update = divmod(step, self._updates_per_epoch)
        if self._rows is None or self._rows[0] != epoch:
            self._rows = epoch, self._cache.epoch(epoch)
        size = len(batch.targets)
        start = update * self._engine.global_batch_size + batch.micro_batch * size
        rows = self._rows[1][start : start + size]
        outputs = decode(rows, self._cache.contents, self._device)
        return torch.stack((batch.targets, outputs), dim=1)


RunTeacher = LiveTeacher | CachedTeacher
"""Gives the targets of a run's micro-batches. Its `facts` are `file`, `model` and `sha256`, and
which `outputs` are learned: live, all, or top K."""


def open_teacher(
    recipe: Recipe, images: DataDigest, class_names: Sequence[str], accelerator: Accelerator
) -> RunTeacher | None:
    """The teacher of a run; None without one.

    Args:
        recipe: resolved.
        images: digest of the training set.
        class_names: of the outputs of the run's model.
        accelerator: of the run.

    Raises:
        IxtError: the teacher or its cache does not fit the run.
    """
    if recipe.teacher.cache is not None:
        return CachedTeacher(recipe, images, len(class_names), accelerator.device)
    if recipe.teacher.is_on:
        return LiveTeacher(TeacherNetwork(recipe, class_names, accelerator))
    return None


def _digest_of(checkpoint: str) -> str:
    """The SHA-256 of a teacher's file."""
    try:
        return sha256(find_weights(checkpoint)[0])
    except CheckpointError as error:
        raise CheckpointError(
            f"teacher.checkpoint: {error}, or null to take the teacher of teacher.cache"
        ) from error
