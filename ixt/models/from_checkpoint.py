"""A checkpoint of any format that ixt reads, as a model with its recipe and classes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from torch import nn

from ixt.checkpoint.weights import CheckpointInfo, Weights
from ixt.errors import ModelError
from ixt.models import (
    LoadedWeights,
    classes_in,
    create_empty_model,
    create_model,
    eval_settings,
    load_weights,
    paper_models,
    timm_equivalent,
)
from ixt.recipe import Recipe, parse_recipe

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
            raise ModelError(f"{checkpoint}: holds {name}, not {model_name}; leave out --model")
        sections = {**held, "run": {**held.get("run", {}), "trackers": []}}
    else:
        name = model_name or (info.model_name if info is not None else None)
        if name is None:
            raise ModelError(f"{checkpoint}: does not tell its architecture; add --model NAME")
        settings = eval_settings(name)
        sections = {
            "model": {"name": name},
            "augment": {"mean": settings.mean, "std": settings.std},
            "eval": {
                "image_size": settings.image_size,
                "crop_pct": settings.crop_pct,
                "crop_mode": _known_mode(name, settings.crop_mode),
                "interpolation": settings.interpolation,
            },
            "run": {"trackers": []},
        }
    sections["data"] = {**sections.get("data", {}), **data}
    if batch_size is not None:
        sections["eval"] = {**sections.get("eval", {}), "batch_size": batch_size}
    return parse_recipe(sections, str(checkpoint))


def _architecture(name: str) -> str:
    """One name for a model that the paper, timm and an export call differently."""
    tagged = next((row.timm_name for row in paper_models() if row.name == name), name)
    bare = tagged.partition(".")[0]
    equivalent = timm_equivalent(bare)
    return equivalent[0] if equivalent else bare


def _known_mode(name: str, mode: str) -> str:
    if mode != "border":
        return mode
    _log.warning(
        "%s: is evaluated with padded borders in timm, here with a centre crop: "
        "expect another accuracy than the published one",
        name,
    )
    return "center"


def build_model(
    weights: Weights, recipe: Recipe
) -> tuple[nn.Module, LoadedWeights, tuple[str, ...] | None]:
    """The model of a checkpoint with its weights, and the class name of each of its outputs.

    Args:
        weights: what `read_weights` gave.
        recipe: what `recipe_of` gave for them.

    Returns:
        Model, weights and names; these are None where the checkpoint does not tell them.

    Raises:
        ModelError: the weights do not fit the model.
    """
    settings, info = recipe.model, weights.info
    names = tuple(info.class_names) if info is not None and info.class_names else None
    num_classes = len(names) if names else settings.num_classes
    if num_classes is None:
        num_classes = classes_in(weights, create_empty_model(settings.name, **settings.kwargs))
    model = create_model(settings.name, num_classes=num_classes, **settings.kwargs)
    loaded = load_weights(model, weights)
    return model, loaded, names
