"""The first images that a run trained on, as the network got them, kept in the run's folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from PIL import Image
from pydantic import BaseModel

from ixt.runs.report.evaluation import plain_text
from ixt.runs.report.pictures import data_uri

if TYPE_CHECKING:
    from torch import Tensor

    from ixt.pipeline.loader import Batch
    from ixt.recipe import Recipe

FIRST_BATCH = "report/first_batch.json"
"""Where it lies in a run's folder."""
_SHOWN = 16
_TARGETS = 2


class TrainingImage(BaseModel):
    """One image of the batch."""

    picture: str
    """Data URI."""
    targets: list[tuple[str, float]]
    """Class and probability of the largest targets above those of label smoothing; none where the
    image was left out."""


class FirstBatch(BaseModel):
    """The first images of the first micro-batch."""

    format: Literal[1] = 1
    images: list[TrainingImage]


def take_first(batch: Batch, recipe: Recipe, class_names: Sequence[str]) -> FirstBatch:
    """Copy the first images of a batch, and their largest targets.

    The recipe's mean and standard deviation are undone.
    """
    from ixt.tools.show.sample import denormalise

    smoothed = recipe.optim.label_smoothing / len(class_names)
    pairs = zip(batch.images[:_SHOWN], batch.targets[:_SHOWN].cpu(), strict=True)
    return FirstBatch(
        images=[
            TrainingImage(
                picture=data_uri(Image.fromarray(denormalise(image, recipe))),
                targets=_largest(targets, class_names, smoothed),
            )
            for image, targets in pairs
        ]
    )


def _largest(
    targets: Tensor, class_names: Sequence[str], smoothed: float
) -> list[tuple[str, float]]:
    values, outputs = targets.topk(min(_TARGETS, len(class_names)))
    pairs = zip(outputs.tolist(), values.tolist(), strict=True)
    large = [(class_names[output], value) for output, value in pairs if value > 1.01 * smoothed]
    return [(plain_text(name), value) for name, value in large]
