"""What is exported: a model in evaluation mode, and what its checkpoint says about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

import ixt
from ixt.checkpoint.folder import sha256
from ixt.checkpoint.state_json import STATE, read_state
from ixt.checkpoint.weights import read_weights
from ixt.images.classes import IMAGENET_CLASSES, imagenet_synsets
from ixt.models import LoadedWeights
from ixt.models.from_checkpoint import build_model, recipe_of
from ixt.recipe import Recipe


@dataclass(frozen=True)
class Source:
    """A trained model and where it comes from."""

    model: nn.Module
    """The model on the CPU, in fp32 and evaluation mode."""
    recipe: Recipe
    """The checkpoint's own, or one with the evaluation settings of the model."""
    loaded: LoadedWeights
    class_names: tuple[str, ...] | None
    """Name of each output; None for a file that does not tell them."""
    record: Mapping[str, Any]
    """state.json of a checkpoint of ixt (step, metrics, machine, ...); empty for other files."""

    @property
    def architecture(self) -> str:
        """The name of the model function, without tag."""
        return str(self.model.pretrained_cfg["architecture"])  # type: ignore[index]

    @property
    def num_classes(self) -> int:
        """Outputs of the head."""
        return int(self.model.num_classes)  # type: ignore[arg-type]

    @property
    def is_imagenet(self) -> bool:
        """Whether the outputs are ImageNet-1k's classes."""
        return self.class_names == imagenet_synsets()


def open_source(checkpoint: Path, model_name: str | None, prefer_ema: bool) -> Source:
    """Load a checkpoint for export.

    A file of 1000 outputs that does not tell its classes is taken for ImageNet-1k's.

    `model_name` is needed where the file does not hold it.

    Raises:
        IxtError: the file is missing or damaged, or does not fit the model.
    """
    weights = read_weights(checkpoint, prefer_ema)
    recipe = recipe_of(checkpoint, weights.info, model_name, {"decoder": "torch"})
    model, loaded, names = build_model(weights, recipe)
    if names is None and loaded.num_classes == IMAGENET_CLASSES:
        names = imagenet_synsets()
    record = loaded.file.with_name(STATE)
    return Source(
        model=model.eval().requires_grad_(False),
        recipe=recipe,
        loaded=loaded,
        class_names=names,
        record=read_state(record.parent) if record.is_file() else {},
    )


def describe(source: Source) -> dict[str, Any]:
    """What a file of weights or a graph cannot say itself, JSON-able."""
    recipe = source.recipe
    return {
        "model": recipe.model.name,
        "model_kwargs": recipe.model.kwargs,
        "num_classes": source.num_classes,
        "class_names": source.class_names,
        "image_size": recipe.eval_size,
        "crop_pct": recipe.eval.crop_pct,
        "crop_mode": recipe.eval.crop_mode,
        "interpolation": recipe.eval.interpolation,
        "mean": recipe.augment.mean,
        "std": recipe.augment.std,
        "val_fraction": recipe.data.val_fraction,
        "loss": recipe.optim.loss,
        "weights": source.loaded.kind,
        "source_sha256": sha256(source.loaded.file),
        "ixt": ixt.__version__,
    }
