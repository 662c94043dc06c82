"""The model of a recipe without values, and what an image costs in it."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from ixt.bench.roofline import Costs, model_costs
from ixt.models import create_empty_model, freeze, recipe_arguments, sized
from ixt.recipe import Recipe


def empty_model(recipe: Recipe, num_classes: int) -> nn.Module:
    """The model that a recipe trains, on the meta device, with what it freezes frozen.

    Raises:
        ModelError: the model or a part of it to freeze is unknown.
    """
    settings = sized(recipe).model
    model = create_empty_model(settings.name, num_classes=num_classes, **recipe_arguments(settings))
    if settings.freeze is not None:
        freeze(model, settings.freeze)
    return model


def recipe_costs(model: nn.Module, recipe: Recipe) -> Costs:
    """What a training image costs in a recipe's `empty_model`."""
    costs = model_costs(model, recipe.augment.image_size)
    # The paper's rates are those of its own models, not of what `kwargs` make of them.
    return costs if recipe.model.kwargs else replace(costs, name=recipe.model.name)
