"""The recipe's teacher section: another model whose outputs are learned as well as the labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from ixt.recipe.section import Problem, Section


class Teacher(Section):
    """Distillation: a trained model whose outputs are learned beside the labels.

    The teacher sees each image as the model sees it: cropped, augmented, mixed and erased.
    """

    checkpoint: str | None = None
    """The teacher: a run (its newest checkpoint; RUN@best names another one), a checkpoint, a
    weights file, or an ONNX file of `ixt export`. Null for no teacher, or for that of the cache."""
    model: str | None = None
    """Name of the teacher's model, if its file does not contain it."""
    cache: str | None = None
    """Folder that `ixt teach` wrote the teacher's outputs to; null computes them in training."""
    hard: bool = False
    """Learn the class that the teacher finds most probable, instead of its probabilities."""
    temperature: Annotated[float, Field(gt=0.0, le=100.0)] = 1.0
    """Logits of both models are divided by it before they are compared."""
    weight: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    """Share of the teacher in the loss: (1 - weight) * loss of the labels + weight * temperature^2
    * KL divergence from the teacher's probabilities (Hinton et al. 2015); with hard, + weight *
    cross entropy of the teacher's class (DeiT, arXiv 2012.12877)."""

    @property
    def is_on(self) -> bool:
        """Whether there is a teacher."""
        return self.checkpoint is not None or self.cache is not None

    @property
    def is_live(self) -> bool:
        """Whether the teacher computes while the model trains."""
        return self.checkpoint is not None and self.cache is None

    def problems(self) -> Iterator[Problem]:
        """Settings without an effect."""
        if not self.is_on:
            for name in self._changed("hard", "temperature", "weight"):
                yield name, "has an effect only with a teacher; set checkpoint or cache"
        if self.model is not None and self.checkpoint is None:
            yield "model", "names the model of checkpoint, which is null; set that, or remove it"
        if self.hard and self.temperature != 1:
            yield "temperature", "has no effect with hard: true; remove one of them"
