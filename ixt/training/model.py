"""The model of a run, from its recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn

from ixt.distributed.accelerator import seed_model
from ixt.errors import IxtError, ModelError, first_line
from ixt.kernels import lay_out_filters, prepare_model
from ixt.models import create_model, freeze, recipe_arguments, scale_classifier
from ixt.recipe import Recipe

_TRIED_BELOW = 96  # pixels
_OTHER_VERSIONS = 8
"""torch's limit for a model: the recipe's own training batch, evaluation's whole and last batches,
and what may be added to them."""

Prepare = Callable[[nn.Module], None]
"""Called with a fresh model, e.g. to load weights."""


def build_model(
    recipe: Recipe, num_classes: int, device: torch.device, prepare: Prepare | None
) -> nn.Module:
    """Build the model that is trained, on the CPU, with the weights that its seed gives.

    It will run on `device`; fused layers are for some devices only. `prepare` is called before
    layers are fused and parameters frozen.

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
    sizes = [*training_sizes(recipe), ("eval.image_size", recipe.eval_size)]
    # Only a small image can leave a layer no pixels; to try it takes milliseconds.
    try_sizes(model, [each for each in sizes if each[1] < _TRIED_BELOW], settings.name)
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
        _compile(model, recipe)
    return model


def _compile(model: nn.Module, recipe: Recipe) -> None:
    """Have torch.compile prepare the model for each shape of a batch, when it first comes.

    One version for several shapes would be slower, and whether there is one would depend on what
    came before: a run that is resumed would compute other bits than one that never stopped.
    """
    from torch._dynamo import config

    # Beyond the limit, new shapes would not be compiled.
    versions = _OTHER_VERSIONS + recipe.curriculum.num_versions()
    config.recompile_limit = max(config.recompile_limit, versions)
    model.compile(mode=recipe.engine.compile_mode, dynamic=False)


def training_sizes(recipe: Recipe) -> list[tuple[str, int]]:
    """Key and side in pixels of the images that a recipe trains on."""
    phases = [("curriculum.phases", size) for size in recipe.curriculum.image_sizes()]
    return [("augment.image_size", recipe.augment.image_size), *phases]


@torch.no_grad()
def try_sizes(model: nn.Module, sizes: Iterable[tuple[str, int]], name: str) -> None:
    """Refuse sizes of images that a model does not take; nothing is drawn and nothing is learned.

    The model is on the CPU; sizes are a key in the recipe, and a side in pixels.

    Raises:
        ModelError: the model does not accept images of a size.
    """
    model.eval()
    for key, size in sizes:
        try:
            model(torch.zeros(1, 3, size, size))
        except (RuntimeError, AssertionError, ValueError, IxtError) as error:
            raise ModelError(
                f"{key}: is {size}, but {name} does not accept images of that size "
                f"({first_line(error).partition(';')[0]}); choose another size"
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
