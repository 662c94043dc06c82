"""How fine-tuning changes a model before training: another image size, a scaled head, freezing.

Loading weights is `loading.py`'s business.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from types import MethodType

import torch
from timm.models import group_parameters
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ixt.errors import ModelError, RecipeError
from ixt.models.create import fixed_image_size
from ixt.recipe import Recipe


def sized(recipe: Recipe) -> Recipe:
    """The recipe with `img_size` among the model's arguments, where its images need that.

    Written into the recipe so that whoever builds the model from a checkpoint builds the same.

    Raises:
        RecipeError: the model supports a single size, and evaluation has another one than training.
    """
    settings, size = recipe.model, recipe.augment.image_size
    fixed = fixed_image_size(settings.name)
    if fixed is None or not settings.kwargs.keys().isdisjoint(("img_size", "dynamic_img_size")):
        return recipe
    if recipe.eval_size != size:
        raise RecipeError(
            f"eval.image_size: is {recipe.eval_size}, but augment.image_size is {size}, and "
            f"{settings.name} supports a single size: make them equal, or add dynamic_img_size: "
            "true to model.kwargs"
        )
    if size == fixed:
        return recipe
    return recipe.with_(model={"kwargs": {**settings.kwargs, "img_size": size}})


def classifier_parameters(model: nn.Module) -> set[str]:
    """Names of the parameters of a model's classifier, the layer that gives the logits."""
    found = model.get_classifier()  # type: ignore[operator]
    heads: Iterable[nn.Module] = found if isinstance(found, (tuple, list)) else (found,)
    wanted = {id(head) for head in heads}
    return {
        f"{name}.{key}"
        for name, module in model.named_modules()
        if id(module) in wanted
        for key, _ in module.named_parameters()
    }


@torch.no_grad()
def scale_classifier(model: nn.Module, factor: float) -> None:
    """Multiply the weights and biases of the classifier.

    Source: ConvNeXt's `head_init_scale`; near zero, a new head starts with even probabilities.
    """
    parameters = dict(model.named_parameters())
    for name in classifier_parameters(model):
        parameters[name].mul_(factor)


def freeze(model: nn.Module, what: int | str | Sequence[str]) -> int:
    """Freeze parameters, and keep their batch norms in evaluation mode.

    `what` is a number, the stem and as many of the first stages (blocks, in a model of timm without
    stages); "backbone", all but the classifier; or names of modules or parameters, with all below.

    Returns:
        How many parameters, counted by element, are frozen.

    Raises:
        ModelError: no such part, or nothing would be left to train.
    """
    names = set(_chosen(model, what))
    parameters = dict(model.named_parameters())
    if names >= parameters.keys():
        raise ModelError(f"model.freeze: {what!r} leaves nothing to train; freeze less")
    for name in names:
        parameters[name].requires_grad_(False)
    for module in model.modules():
        own = list(module.parameters())
        if isinstance(module, _BatchNorm) and own and not any(p.requires_grad for p in own):
            module.eval()
            # Model.train() reaches every module before each epoch; this one does not follow.
            module.train = MethodType(_stay, module)  # type: ignore[method-assign]
    return sum(parameters[name].numel() for name in names)


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:
    return module


def _chosen(model: nn.Module, what: int | str | Sequence[str]) -> Iterator[str]:
    every = [name for name, _ in model.named_parameters()]
    if what == "backbone":
        head = classifier_parameters(model)
        yield from (name for name in every if name not in head)
    elif isinstance(what, int):
        yield from _first_stages(model, what)
    else:
        for prefix in [what] if isinstance(what, str) else what:
            below = [name for name in every if f"{name}.".startswith(f"{prefix}.")]
            if not below:
                raise ModelError(_unknown_part(model, prefix))
            yield from below


def _first_stages(model: nn.Module, count: int) -> Iterator[str]:
    matcher = model.group_matcher(coarse=True)  # type: ignore[operator]
    groups: dict[int, list[str]] = group_parameters(model, matcher)
    head = classifier_parameters(model)
    stages = [number for number, names in groups.items() if not head.intersection(names)][1:]
    if count > len(stages):
        raise ModelError(f"model.freeze: {count} stages, but the model has {len(stages)}")
    for number in range(count + 1):
        yield from groups[number]


def _unknown_part(model: nn.Module, prefix: str) -> str:
    parts = [
        name
        for name, module in model.named_modules()
        if name and next(module.parameters(), None) is not None
    ]
    top = [name for name, _ in model.named_children()]
    near = difflib.get_close_matches(prefix, parts, n=3, cutoff=0.6) or top
    return (
        f"model.freeze: {prefix}: is not a part of the model with parameters; similar names: "
        f"{', '.join(near)}"
    )
