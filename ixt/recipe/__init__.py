"""Recipes: the strict schema, and how a YAML file becomes one. Loads no torch."""

from ixt.recipe.augment import IMAGENET_MEAN, IMAGENET_STD, Augment
from ixt.recipe.curriculum import MICRO_BATCH
from ixt.recipe.data import Data
from ixt.recipe.engine import Engine, smaller_batch
from ixt.recipe.load import (
    RUN_RECIPE,
    Origins,
    dump_recipe,
    find_recipe,
    load_recipe,
    override_recipe,
    parse_recipe,
    refuse_null_arguments,
    trace_recipe,
)
from ixt.recipe.model import Model
from ixt.recipe.optim import Ema, Optim, Schedule
from ixt.recipe.own import LEFT_TO_THE_MODEL, completed, is_complete, parse_stored
from ixt.recipe.run import Eval, Prometheus, RunSettings
from ixt.recipe.schema import Recipe
from ixt.recipe.section import MAX_SIDE, MIN_CROP_PCT
from ixt.recipe.teacher import Teacher

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "LEFT_TO_THE_MODEL",
    "MAX_SIDE",
    "MICRO_BATCH",
    "MIN_CROP_PCT",
    "RUN_RECIPE",
    "Augment",
    "Data",
    "Ema",
    "Engine",
    "Eval",
    "Model",
    "Optim",
    "Origins",
    "Prometheus",
    "Recipe",
    "RunSettings",
    "Schedule",
    "Teacher",
    "completed",
    "dump_recipe",
    "find_recipe",
    "is_complete",
    "load_recipe",
    "override_recipe",
    "parse_recipe",
    "parse_stored",
    "refuse_null_arguments",
    "smaller_batch",
    "trace_recipe",
]
