"""A checkpoint of any format that ixt reads, as a model with its recipe and classes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from torch import nn

from ixt.checkpoint.info import CheckpointInfo
from ixt.checkpoint.weight_files import may_name_a_model
from ixt.checkpoint.weights import Weights
from ixt.errors import CheckpointError, ModelError
from ixt.models import (
    LoadedWeights,
    classes_in,
    create_empty_model,
    create_model,
    eval_settings,
    is_known_model,
    load_weights,
    timm_equivalent,
)
from ixt.models.own import as_sections, with_own_settings
from ixt.recipe import Recipe, parse_stored
from ixt.recipe.paper import find_paper_model

_log = logging.getLogger("ixt")


def recipe_of(
    checkpoint: Path,
    info: CheckpointInfo | None,
    model_name: str | None,
    data: dict[str, Any],
    batch_size: int | None = None,
) -> Recipe:
    """The recipe that a checkpoint holds, or one with the model's own evaluation settings.

    Raises:
        ModelError: the file does not hold a model name and none is given, or it holds
            another model.
    """
    held = info.recipe if info is not None else None
    if held is not None:
        name = info.model_name if info is not None else None
        if name and model_name and _architecture(name) != _architecture(model_name):
            raise ModelError(
                f"{checkpoint}: contains weights of {name}, not of {model_name}; leave out --model"
            )
        sections = {**held, "run": {**held.get("run", {}), "trackers": []}}
    else:
        name = model_name or (info.model_name if info is not None else None)
        if name is None:
            raise ModelError(f"{checkpoint}: does not name its architecture; add --model NAME")
        settings = eval_settings(name)
        if settings.crop_mode == "border":
            _log.warning(
                "%s: timm evaluates it with padded borders, ixt with a centre crop: expect a "
                "different accuracy from the published one",
                name,
            )
        sections = {"model": {"name": name}, "run": {"trackers": []}, **as_sections(settings)}
        # The size of the test, which may differ from that of training.
        sections["eval"]["image_size"] = sections["augment"].pop("image_size")
    sections["data"] = {**sections.get("data", {}), **data}
    if batch_size is not None:
        sections["eval"] = {**sections.get("eval", {}), "batch_size": batch_size}
    return with_own_settings(parse_stored(sections, str(checkpoint)))


def _architecture(name: str) -> str:
    """One name for a model that the paper, timm and an export call differently."""
    row = find_paper_model(name)
    bare = (row.timm_name if row else name).partition(".")[0]
    equivalent = timm_equivalent(bare)
    return equivalent[0] if equivalent else bare


def build_model(
    weights: Weights, recipe: Recipe
) -> tuple[nn.Module, LoadedWeights, tuple[str, ...] | None]:
    """The model of a checkpoint with its weights, and the class name of each of its outputs.

    The recipe is what `recipe_of` gave for the weights.

    Returns:
        Model, weights and names; these are None where the checkpoint does not hold them.

    Raises:
        ModelError: the weights do not fit the model.
    """
    settings, names = recipe.model, weights.info.class_names if weights.info else None
    num_classes = len(names) if names else settings.num_classes
    if num_classes is None:
        num_classes = classes_in(weights, create_empty_model(settings.name, **settings.kwargs))
    model = create_model(settings.name, num_classes=num_classes, **settings.kwargs)
    return model, load_weights(model, weights), names


def published_model(
    name: str, data: dict[str, Any], batch_size: int | None = None
) -> tuple[nn.Module, Recipe]:
    """A model with its published weights, and a recipe with its own evaluation settings.

    `data` are values of the recipe's data section.

    Raises:
        ModelError: the name is unknown, or the weights are not available.
    """
    recipe = recipe_of(Path(name), None, name, data, batch_size)
    return create_model(name, pretrained=True), recipe


def refuse_bare_name(checkpoint: str | Path) -> None:
    """Say what to do where a model's name was given instead of a file.

    Raises:
        CheckpointError: no file is called so, but a model is.
    """
    if may_name_a_model(checkpoint) and is_known_model(str(checkpoint)):
        raise CheckpointError(
            f"{checkpoint}: no such file; add --pretrained for the model's published weights"
        )
