"""The teacher as a network that sees the images of a run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor

from ixt.errors import IxtError, ModelError
from ixt.evaluate.candidates import Candidate, Source, open_candidates
from ixt.pipeline.loader import Batch
from ixt.recipe import Recipe
from ixt.training.model import training_sizes, try_sizes


class TeacherNetwork:
    """A trained model, called with a run's images."""

    def __init__(
        self, recipe: Recipe, class_names: Sequence[str], accelerator: Accelerator
    ) -> None:
        """Load the teacher and try it.

        The recipe is resolved, and names a checkpoint. `class_names` are of the outputs of the
        run's model; device and precision of the accelerator are the teacher's, too.

        Raises:
            IxtError: the file does not hold a model, or one of other classes, or one that does not
                take images of the recipe's sizes.
        """
        settings = recipe.teacher
        assert settings.checkpoint is not None
        self._name = f"teacher.checkpoint: {settings.checkpoint}"
        try:
            (found,) = open_candidates([Source(Path(settings.checkpoint), settings.model)], {})
        except IxtError as error:
            raise ModelError(
                f"teacher: {str(error).replace('--model', 'teacher.model')}"
            ) from error
        self._refuse_other_classes(found, class_names)
        self.facts: dict[str, Any] = {
            "file": Path(settings.checkpoint).name,
            "model": found.recipe.model.name,
            "sha256": found.origin["sha256"],
            "outputs": "live",
        }
        try_sizes(found.model, training_sizes(recipe), f"the teacher {self.facts['model']}")
        self._accelerator, device = accelerator, accelerator.device
        self._model = found.model.to(device).eval().requires_grad_(False)
        if recipe.engine.channels_last:
            self._model = self._model.to(memory_format=torch.channels_last)
        self._own = _normalisation(recipe, found.recipe, device)

    def check_epochs(self, epochs: Iterable[int]) -> None:
        """It has outputs for every epoch."""

    def targets(self, step: int, batch: Batch) -> Tensor:
        """See `ixt.training.teacher.targets.CachedTeacher.targets`."""
        return torch.stack((batch.targets, self(batch.images)), dim=1)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """The log-probabilities of images.

        Images are (B, 3, S, S) float32, normalised as the run's recipe says.

        Returns:
            (B, num_classes) float32.
        """
        if self._own is not None:
            images = images * self._own[0] + self._own[1]
        with self._accelerator.autocast():
            logits = self._model(images)
        return F.log_softmax(logits.float(), dim=1)

    def _refuse_other_classes(self, found: Candidate, wanted: Sequence[str]) -> None:
        pairs = zip(found.class_names or wanted, wanted, strict=False)
        wrong = next((pair for pair in pairs if pair[0] != pair[1]), None)
        if found.num_classes != len(wanted):
            text = f"has {found.num_classes} classes, and the model has {len(wanted)}"
        elif wrong is not None:
            text = f"has class {wrong[0]} where the model has {wrong[1]}"
        else:
            return
        raise ModelError(f"{self._name}: {text}; give a teacher of the same classes")


def _normalisation(run: Recipe, teacher: Recipe, device: torch.device) -> Tensor | None:
    """Factor and summand (2, 3, 1, 1) from the run's normalised images to the teacher's.

    None where both are the same.
    """
    ours, theirs = run.augment, teacher.augment
    if (ours.mean, ours.std) == (theirs.mean, theirs.std):
        return None
    (mean, std), (to_mean, to_std) = (
        torch.tensor([augment.mean, augment.std], dtype=torch.float64) for augment in (ours, theirs)
    )
    both = torch.stack((std / to_std, (mean - to_mean) / to_std))
    return both.float().view(2, 3, 1, 1).to(device)
