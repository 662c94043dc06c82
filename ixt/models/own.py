"""How a model's images should be prepared: the values for what a recipe leaves open.

They come from, in this order, the recipe in the checkpoint that a run starts from, the paper's
table, and timm's configuration of the published weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ixt.checkpoint.info import CheckpointInfo
from ixt.models.create import EvalSettings, eval_settings
from ixt.recipe import LEFT_TO_THE_MODEL, Recipe, completed, is_complete, parse_stored
from ixt.recipe.paper import find_paper_model


@dataclass(frozen=True)
class OwnSettings:
    """Sizes, crop and colours that a model was made for."""

    source: str
    """Where the settings come from, in words."""
    sections: Mapping[str, Mapping[str, Any]]
    """The values by section and key of a recipe (`ixt.recipe.LEFT_TO_THE_MODEL`)."""


def own_settings(
    name: str, base: CheckpointInfo | None = None, eval_size: int | None = None
) -> OwnSettings:
    """The settings that a model was made for.

    The recipe of `base`, the checkpoint to start from, comes first. `eval_size` is the side of the
    test image in pixels, where it is not the training size; at timm's test size, timm's test crop
    is taken.

    Raises:
        ModelError: the name is unknown.
    """
    if base is not None and base.recipe is not None:
        recipe = parse_stored({"model": {"name": name}, **base.recipe})
        return OwnSettings("the recipe of the weights", recipe.model_dump(mode="json"))
    settings, test = eval_settings(name, test_size=False), eval_settings(name)
    crop = test if eval_size == test.image_size else settings
    whose = "the paper's settings" if find_paper_model(name) else "timm's configuration"
    padded = settings.crop_mode == "border"
    but = ", which pads borders where ixt takes a centre crop" if padded else ""
    return OwnSettings(
        f"{whose} of {name}{but}", as_sections(replace(settings, crop_pct=crop.crop_pct))
    )


def as_sections(settings: EvalSettings) -> dict[str, dict[str, Any]]:
    """Settings by section and key of a recipe; borders, which ixt does not pad, are cropped."""
    return {
        "augment": {
            "image_size": settings.image_size,
            "mean": list(settings.mean),
            "std": list(settings.std),
        },
        "eval": {
            "crop_pct": settings.crop_pct,
            "crop_mode": "squash" if settings.crop_mode == "squash" else "center",
            "interpolation": settings.interpolation,
        },
    }


def with_own_settings(recipe: Recipe, base: CheckpointInfo | None = None) -> Recipe:
    """The recipe with the model's own settings wherever it leaves them open.

    On `base` see `own_settings`.

    Raises:
        ModelError: the model's name is unknown.
        RecipeError: a setting of the model contradicts the recipe.
    """
    if is_complete(recipe):
        return recipe
    own = own_settings(recipe.model.name, base, recipe.eval.image_size)
    return completed(recipe, own.sections)


def describe_settings(recipe: Recipe, own: OwnSettings) -> str:
    """One line: how images are prepared, and where that is not as the model was made for.

    The recipe has nothing left open; `own` are the settings of its model.
    """
    augment, settings = recipe.augment, recipe.eval
    sizes = dict.fromkeys((augment.image_size, recipe.eval_size))
    found = recipe.model_dump(mode="json")
    values = {
        f"{section}.{key}": (found[section][key], own.sections[section][key])
        for section, keys in LEFT_TO_THE_MODEL.items()
        for key in keys
    }
    other = [
        f"{key} {_text(value)} instead of {_text(wanted)}"
        for key, (value, wanted) in values.items()
        if value != wanted
    ]
    return (
        f"{' and '.join(map(str, sizes))} px, crop {settings.crop_pct:g} "
        f"({settings.crop_mode}, {settings.interpolation}), mean {_text(augment.mean)}, std "
        f"{_text(augment.std)}; "
        + (f"differs from {own.source}: {', '.join(other)}" if other else f"as in {own.source}")
    )


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(f'{number:g}' for number in value)}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
