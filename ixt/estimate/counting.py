"""What `ixt plan` has to count with torch and timm: a recipe's model, optimizer and schedule.

Everything else in this room gets by with numbers, and starts without torch.
"""

from __future__ import annotations

import torch
from torch import nn

from ixt.bench.roofline.expected import empty_model, recipe_costs
from ixt.costs import Costs
from ixt.estimate.activations import saved_activations
from ixt.estimate.memory import ModelSize
from ixt.models import count_params
from ixt.recipe import Optim, Recipe
from ixt.training.optimizer import build_optimizer


def count_model(recipe: Recipe, num_classes: int) -> tuple[Costs, ModelSize]:
    """What a training image costs in a recipe's model, and what its memory depends on.

    Raises:
        ModelError: the model or a part of it to freeze is unknown, or it cannot run without values.
        RecipeError: the optimizer is unknown.
    """
    model = empty_model(recipe, num_classes)
    return recipe_costs(model, recipe), model_size(model, recipe)


def model_size(model: nn.Module, recipe: Recipe) -> ModelSize:
    """The sizes of a recipe's model, which is of no further use.

    Raises:
        ModelError: the model cannot run without values.
    """
    image_size, half = recipe.augment.image_size, recipe.engine.precision != "fp32"
    return ModelSize(
        params=count_params(model),
        trained_params=sum(p.numel() for p in model.parameters() if p.requires_grad),
        buffers=sum(b.numel() for b in model.buffers() if b.is_floating_point()),
        optimizer_bytes_per_param=optimizer_bytes_per_param(recipe.optim),
        activations=saved_activations(model, image_size, half=half),
    )


def optimizer_bytes_per_param(optim: Optim) -> float:
    """State that the recipe's optimizer keeps for each parameter, found by one step of it.

    Raises:
        RecipeError: unknown optimizer, or an argument that it does not take.
    """
    probe = nn.Linear(64, 64)
    # Layer decay groups parameters by the depth of a timm model and changes no state.
    optimizer = build_optimizer(probe, optim.model_copy(update={"layer_decay": None}))
    for parameter in probe.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    state = [
        value
        for values in optimizer.state.values()
        for value in values.values()
        if isinstance(value, torch.Tensor) and value.numel() > 1
    ]
    params = sum(parameter.numel() for parameter in probe.parameters())
    return sum(value.numel() * value.element_size() for value in state) / params
