"""What a teacher adds to the targets of a run: computed beside the model, or read from a cache."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from ixt.checkpoint.folder import Checkpoint, sha256
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


class Teacher(Protocol):
    """Gives the targets of a run's micro-batches."""

    facts: Mapping[str, Any]
    """The teacher's `file`, `model` and `sha256`, and which `outputs` are learned: live, all or
    those of the most probable classes."""

    def check_epochs(self, epochs: Iterable[int]) -> None:
        """Refuse epochs, counted from 0, that it cannot give targets of.

        Raises:
            DataError: it names them.
        """

    def targets(self, step: int, batch: Batch) -> Tensor:
        """The targets of a micro-batch of an update, and what the teacher says about its images.

        Returns:
            (B, 2, num_classes) float32: the batch's own targets, and log-probabilities.
        """


class LiveTeacher(Teacher):
    """A teacher that computes while the model trains."""

    def __init__(self, network: TeacherNetwork) -> None:
        self._network, self.facts = network, {**network.facts, "outputs": "live"}

    @override
    def check_epochs(self, epochs: Iterable[int]) -> None:
        pass

    @override
    def targets(self, step: int, batch: Batch) -> Tensor:
        return torch.stack((batch.targets, self._network(batch.images)), dim=1)


class CachedTeacher(Teacher):
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
        self._cache, self._engine, self._device = (
            open_cache(Path(settings.cache)),
            recipe.engine,
            device,
        )
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

    @override
    def check_epochs(self, epochs: Iterable[int]) -> None:
        missing = self._cache.missing(epochs)
        if missing:
            raise DataError(
                f"{self._cache.folder}: contains no outputs of epochs {_ranges(missing)}; write "
                f"them: ixt teach RECIPE --out {self._cache.folder} --epochs "
                f"{missing[0]}:{missing[-1] + 1}"
            )

    @override
    def targets(self, step: int, batch: Batch) -> Tensor:
        epoch, update = divmod(step, self._updates_per_epoch)
        if self._rows is None or self._rows[0] != epoch:
            self._rows = epoch, self._cache.epoch(epoch)
        size = self._engine.micro_batch_size
        start = update * self._engine.global_batch_size + batch.micro_batch * size
        rows = self._rows[1][start : start + size]
        outputs = decode(rows, self._cache.contents, self._device)
        return torch.stack((batch.targets, outputs), dim=1)


def open_teacher(
    recipe: Recipe, images: DataDigest, class_names: Sequence[str], accelerator: Accelerator
) -> Teacher | None:
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


def refuse_changed_teacher(teacher: Teacher | None, checkpoint: Checkpoint) -> None:
    """Refuse to resume with outputs of a teacher that are not those the run began with.

    Raises:
        CheckpointError: the teacher, or which of its outputs are kept, has changed.
    """
    saved = checkpoint.state.get("teacher")
    for key in ("sha256", "outputs"):
        was, now = ((facts or {}).get(key) for facts in (saved, teacher and teacher.facts))
        if was != now:
            raise CheckpointError(
                f"{checkpoint.path}: was trained with a teacher whose {key} was {was!r}, and it is "
                f"{now!r}; set teacher.checkpoint and teacher.cache to those of the run, or start "
                "a new run with another --run-dir"
            )


def _digest_of(checkpoint: str) -> str:
    """The SHA-256 of a teacher's file."""
    try:
        return sha256(find_weights(checkpoint)[0])
    except CheckpointError as error:
        raise CheckpointError(
            f"teacher.checkpoint: {error}, or null to take the teacher of teacher.cache"
        ) from error


def _ranges(numbers: Sequence[int]) -> str:
    """`0 to 3, 5`."""
    starts = [n for k, n in enumerate(numbers) if k == 0 or numbers[k - 1] != n - 1]
    ends = [n for k, n in enumerate(numbers) if k == len(numbers) - 1 or numbers[k + 1] != n + 1]
    parts = [str(a) if a == b else f"{a} to {b}" for a, b in zip(starts, ends, strict=True)]
    more = f", and {len(parts) - 3} more ranges" if len(parts) > 3 else ""
    return ", ".join(parts[:3]) + more
