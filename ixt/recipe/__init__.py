"""Recipes: the strict schema, and how a YAML file becomes one. Loads no torch."""

from ixt.recipe.load import (
    Origins,
    dump_recipe,
    find_recipe,
    load_recipe,
    parse_recipe,
    trace_recipe,
)
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
    "Origins",
    "Recipe",
    "RunSettings",
    "Schedule",
    "dump_recipe",
    "find_recipe",
    "load_recipe",
    "parse_recipe",
    "trace_recipe",
]
