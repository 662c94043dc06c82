"""The model of a run, from its recipe."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from ixt.distributed.accelerator import seed_model
from ixt.errors import ModelError, first_line
from ixt.kernels import lay_out_filters, prepare_model
from ixt.models import create_model, freeze, recipe_arguments, scale_classifier
from ixt.recipe import Recipe

_TRIED_BELOW = 96  # pixels

Prepare = Callable[[nn.Module], None]
"""Called with a fresh model, e.g. to load weights."""


def build_model(
    recipe: Recipe, num_classes: int, device: torch.device, prepare: Prepare | None
) -> nn.Module:
    """Build the model that is trained, on the CPU, with the weights that its seed gives.

    Args:
        recipe: its model, engine and run sections.
        num_classes: outputs of the head.
        device: where it will run; fused layers are for some devices only.
        prepare: called before layers are fused and parameters frozen.

    Raises:
        ModelError: the model or a part of it to freeze is unknown, or the images are too small.
    """
    seed_model(recipe.run.seed)
    settings = recipe.model
    model = create_model(
        settings.name,
        num_classes=num_classes,
        pretrained=settings.pretrained,
        **recipe_arguments(settings),
    )
    _try_sizes(model, recipe)
    if settings.head_init_scale != 1:
        scale_classifier(model, settings.head_init_scale)
    if prepare is not None:
        prepare(model)
    prepare_model(model, recipe, device)
    if settings.freeze is not None:
        freeze(model, settings.freeze)
    # DeepSpeed lays weights end to end in NCHW, and cannot send others between processes; images in
    # NHWC make convolutions run in that order all the same.
    if recipe.engine.channels_last and recipe.engine.kind == "ddp":
        model = model.to(memory_format=torch.channels_last)
        lay_out_filters(model)
    if recipe.engine.compile:
        # One version for each size is faster than one for all.
        fixed = {"dynamic": False} if recipe.curriculum.image_sizes() else {}
        model.compile(mode=recipe.engine.compile_mode, **fixed)
    return model


@torch.no_grad()
def _try_sizes(model: nn.Module, recipe: Recipe) -> None:
    """Refuse images so small that a layer of the model has no pixels left.

    Small ones alone are tried, which takes milliseconds; nothing is drawn and nothing is learned.

    Raises:
        ModelError: the model does not accept images of a size in the recipe.
    """
    sizes = [
        ("augment.image_size", recipe.augment.image_size),
        ("eval.image_size", recipe.eval_size),
    ]
    sizes += [("curriculum.phases", size) for size in recipe.curriculum.image_sizes()]
    model.eval()
    for key, size in sizes:
        if size >= _TRIED_BELOW:
            continue
        try:
            model(torch.zeros(1, 3, size, size))
        except (RuntimeError, AssertionError, ValueError) as error:
            raise ModelError(
                f"{key}: is {size}, but {recipe.model.name} does not accept images of that size "
                f"({first_line(error)}); choose a larger size"
            ) from error
    model.train()


def unfetched(recipe: Recipe) -> Recipe:
    """The recipe with `pretrained` off, for when other weights are loaded or none are needed."""
    return recipe.with_(model={"pretrained": False})


def probe_model(recipe: Recipe) -> nn.Module:
    """The model of a recipe for a memory probe: with fresh weights, and not compiled."""
    plain = recipe.with_(model={"pretrained": False}, engine={"compile": False})
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return build_model(plain, recipe.model.num_classes or 1000, device, None)
