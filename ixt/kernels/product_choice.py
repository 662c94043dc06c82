"""Who computes the products of folded blocks: measured where the recipe says auto, once per run.

The choice changes last bits, so it is made once, by one process for all, and written down.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
import torch.distributed as dist

from ixt.distributed.accelerator import set_math
from ixt.distributed.group import join_group
from ixt.kernels import tune
from ixt.kernels.apply import DTYPES
from ixt.models import create_empty_model, recipe_arguments
from ixt.recipe import Recipe, load_recipe
from ixt.recipe.model import GemmChoice


def choose_products(recipe: Recipe, stored: Path | None) -> Recipe:
    """Put a choice where the recipe says model.fused_gemm: auto. Every process must call it.

    Triton computes a product where the first process measures it to be faster; cuBLAS does all of
    them without a CUDA device.

    Args:
        recipe: with its micro-batch resolved.
        stored: the resolved recipe of a run to continue, whose choice is kept.
    """
    if recipe.model.fused_gemm != "auto":
        return recipe
    choice: GemmChoice = load_recipe(stored).model.fused_gemm if stored is not None else "auto"
    if choice == "auto":
        choice = _measure_once(recipe) if torch.cuda.is_available() else "cublas"
    return recipe.with_(model={"fused_gemm": choice})


def _measure_once(recipe: Recipe) -> GemmChoice:
    """What the first of all processes measures, in each of them."""
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    choice = _measure(recipe) if os.environ.get("RANK", "0") == "0" else "cublas"
    return choice if os.environ.get("WORLD_SIZE", "1") == "1" else _of_first(choice)


def _of_first(choice: GemmChoice) -> GemmChoice:
    """The choice of the first process; joins them, as Accelerate does if they are not yet."""
    if not dist.is_initialized():
        join_group()
    shared = [choice]
    dist.broadcast_object_list(shared)
    return shared[0]


def _measure(recipe: Recipe) -> GemmChoice:
    settings, engine = recipe.model, recipe.engine
    set_math(recipe, cuda=True)
    dtype = DTYPES[engine.precision]
    products = tune.products(
        create_empty_model(settings.name, **recipe_arguments(settings)),
        recipe.augment.image_size,
        engine.micro_batch_size,
        dtype,
        dtype if engine.half_residual else torch.float32,
        torch.device("cuda"),
    )
    times = {p.name: tune.product_times(p, tune.time_on_device) for p in products}
    torch.cuda.empty_cache()
    return choice_from(times)


def choice_from(times: Mapping[str, Mapping[str, float]]) -> GemmChoice:
    """A recipe's value, from the milliseconds of each product by way."""
    best = {product: tune.fastest(by_way) for product, by_way in times.items()}
    choice = {product: way for product, way in best.items() if way != tune.CUBLAS}
    return cast(GemmChoice, choice) if choice else "cublas"
