"""A model ready to look at images, with the settings of its evaluation and its class names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from timm.data import ImageNetInfo, infer_imagenet_subset
from torch import Tensor, nn

from ixt.checkpoint.weight_files import WeightFile
from ixt.checkpoint.weights import read_weights
from ixt.distributed.accelerator import build_accelerator
from ixt.images.classes import IMAGENET_CLASSES, imagenet_synsets
from ixt.models.from_checkpoint import build_model, published_model, recipe_of, refuse_bare_name
from ixt.pipeline.decode.base import DecoderKind
from ixt.recipe import Recipe


@dataclass(frozen=True)
class Classifier:
    """A model with all that predictions need."""

    model: nn.Module
    """The model on the accelerator's device, in evaluation mode, without gradients."""
    recipe: Recipe
    """How images are prepared, the batch size, the precision."""
    class_names: tuple[str, ...]
    accelerator: Accelerator
    decoder: DecoderKind
    """Decodes the images, whatever the recipe says."""


def open_classifier(
    source: str | Path | WeightFile,
    *,
    model_name: str | None = None,
    pretrained: bool = False,
    prefer_ema: bool = True,
    batch_size: int | None = None,
    decoder: DecoderKind = "auto",
) -> Classifier:
    """Load a model, onto the GPU if there is one.

    Args:
        source: a run folder, a checkpoint folder or a weights file, or what `check_weights` gave
            of it; a model's name, if pretrained.
        model_name: architecture, where the file does not hold it.
        pretrained: take the published weights of the model that `source` names.
        prefer_ema: take averaged weights where there are some.
        batch_size: images per forward pass; None takes the recipe's for evaluation.
        decoder: auto, torch, dali or exact.

    Returns:
        The classifier. Classes that nobody names are called by their number.

    Raises:
        IxtError: the file, the name or the weights do not fit.
    """
    data, names = {"on_error": "skip"}, None
    if pretrained:
        model, recipe = published_model(str(source), data, batch_size)
    else:
        given = source.given if isinstance(source, WeightFile) else Path(source)
        refuse_bare_name(given)
        weights = read_weights(source, prefer_ema)
        recipe = recipe_of(given, weights.info, model_name, data, batch_size)
        model, _, names = build_model(weights, recipe)
    if recipe.engine.precision == "fp16" and not torch.cuda.is_available():
        recipe = recipe.with_(engine={"precision": "fp32"})
    accelerator = build_accelerator(recipe, Path())
    model = model.to(accelerator.device).eval().requires_grad_(False)
    return Classifier(model, recipe, names or _names(model), accelerator, decoder)


@torch.no_grad()
def probabilities(classifier: Classifier, images: Tensor) -> Tensor:
    """How probable each class is, from the outputs that the evaluation gets.

    A model that was trained with `optim.loss: bce` judges each class alone, so that several may be
    probable, or none.

    `images` are (B, 3, S, S) float32, normalised, on the device.

    Returns:
        (B, num_classes) float32; the rows of other models sum to 1.
    """
    with classifier.accelerator.autocast():
        outputs: Tensor = classifier.model(images)
    each_alone = classifier.recipe.optim.loss == "bce"
    return outputs.float().sigmoid() if each_alone else outputs.float().softmax(dim=1)


def _names(model: nn.Module) -> tuple[str, ...]:
    """Names of the outputs of a model that comes without: ImageNet's where their number fits."""
    num_classes = int(model.num_classes)  # type: ignore[arg-type]
    if num_classes == IMAGENET_CLASSES:
        return imagenet_synsets()
    config: dict[str, Any] = {"num_classes": num_classes}
    subset = infer_imagenet_subset(config)
    known = ImageNetInfo(subset).label_names() if subset else []
    return tuple(known) if len(known) == num_classes else tuple(map(str, range(num_classes)))
