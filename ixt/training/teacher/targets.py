"""The teacher of a run: computing beside the model, or read from a cache."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from ixt.checkpoint.folder import sha256
from ixt.checkpoint.weight_files import find_weights
from ixt.errors import CheckpointError, DataError
from ixt.images.data_digest import DataDigest
from ixt.pipeline.loader import Batch
from ixt.recipe import Recipe
from ixt.training.teacher.cache import (
    Rows,
    decode,
    epoch_file,
    epoch_files,
    plan_of,
    read_facts,
    read_rows,
)
from ixt.training.teacher.network import TeacherNetwork


class CachedTeacher:
    """The outputs of a teacher that `ixt teach` wrote, by position."""

    def __init__(
        self, recipe: Recipe, images: DataDigest, num_classes: int, device: torch.device
    ) -> None:
        """Open the cache of a recipe.

        The recipe is resolved, and names a cache. `images` is the digest of the training set,
        `num_classes` are the outputs of the run's model.

        Raises:
            IxtError: the cache is of other inputs, of another teacher, or of other classes.
        """
        settings = recipe.teacher
        assert settings.cache is not None
        self._folder, self._device = Path(settings.cache), device
        wanted = {"num_classes": num_classes, **plan_of(recipe, images)}
        if settings.checkpoint is not None:
            wanted["teacher.sha256"] = _digest_of(settings.checkpoint)
        files = epoch_files(self._folder)
        if not files:
            raise DataError(
                f"{self._folder}: contains no outputs of a teacher; write them: ixt teach RECIPE "
                f"--out {self._folder}"
            )
        self._cached = read_facts(files[0], wanted)
        kept = self._cached["top"]
        self.facts = {name: self._cached[f"teacher.{name}"] for name in ("file", "model", "sha256")}
        self.facts["outputs"] = "all" if kept == num_classes else f"top {kept}"
        self._global_batch = recipe.engine.global_batch_size
        self._rows: tuple[int, Rows] | None = None

    def check_epochs(self, epochs: Iterable[int]) -> None:
        """Refuse epochs, counted from 0, that the cache does not have.

        Raises:
            DataError: it names them, or the file of one that is of another teacher or input.
        """
        files = {epoch: epoch_file(self._folder, epoch) for epoch in epochs}
        missing = [epoch for epoch, file in files.items() if not file.is_file()]
        if missing:
            more = f", nor of {len(missing) - 1} later ones" if missing[1:] else ""
            raise DataError(
                f"{self._folder}: contains no outputs of epoch {missing[0]}{more}; write them: "
                f"ixt teach RECIPE --out {self._folder} "
                f"--epochs {missing[0]}:{missing[-1] + 1}"
            )
        for file in files.values():
            read_facts(file, self._cached)

    def targets(self, step: int, batch: Batch) -> Tensor:
        """The targets of a micro-batch of an update, and what the teacher says about its images.

        Returns:
            (B, 2, num_classes) float32: the batch's own targets, and log-probabilities.

        Raises:
            DataError: the file of the epoch is damaged.
        """
        epoch, update = divmod(step, self._cached["num_rows"] // self._global_batch)
        if self._rows is None or self._rows[0] != epoch:
            self._rows = epoch, read_rows(epoch_file(self._folder, epoch), self._cached)
        count, num_classes = batch.targets.shape
        start = update * self._global_batch + batch.micro_batch * count
        rows = {name: column[start : start + count] for name, column in self._rows[1].items()}
        return torch.stack((batch.targets, decode(rows, num_classes, self._device)), dim=1)


RunTeacher = TeacherNetwork | CachedTeacher
"""Gives the targets of a run's micro-batches. Its `facts` are `file`, `model` and `sha256`, and
which `outputs` are learned: live, all, or top K."""


def open_teacher(
    recipe: Recipe, images: DataDigest, class_names: Sequence[str], accelerator: Accelerator
) -> RunTeacher | None:
    """The teacher of a run; None without one.

    Raises:
        IxtError: the teacher or its cache does not fit the run.
    """
    if recipe.teacher.cache is not None:
        return CachedTeacher(recipe, images, len(class_names), accelerator.device)
    return TeacherNetwork(recipe, class_names, accelerator) if recipe.teacher.is_on else None


def _digest_of(checkpoint: str) -> str:
    """The SHA-256 of a teacher's file."""
    try:
        return sha256(find_weights(checkpoint)[0])
    except CheckpointError as error:
        raise CheckpointError(
            f"teacher.checkpoint: {error}, or null to take the teacher of teacher.cache"
        ) from error
