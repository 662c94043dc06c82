"""Recipes: the strict schema, and how a YAML file becomes one. Loads no torch."""

from ixt.recipe.load import dump_recipe, find_recipe, load_recipe, parse_recipe
from ixt.recipe.schema import (
    Augment,
    Data,
    Ema,
    Engine,
    Eval,
    Model,
    Optim,
    Recipe,
    RunSettings,
    Schedule,
)

__all__ = [
    "Augment",
    "Data",
    "Ema",
    "Engine",
    "Eval",
    "Model",
    "Optim",
    "Recipe",
    "RunSettings",
    "Schedule",
    "dump_recipe",
    "find_recipe",
    "load_recipe",
    "parse_recipe",
]
