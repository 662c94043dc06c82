"""What a recipe may leave to the model: null until a value takes its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ixt.recipe.augment import IMAGENET_MEAN, IMAGENET_STD
from ixt.recipe.load import parse_recipe
from ixt.recipe.schema import Recipe

LEFT_TO_THE_MODEL = {
    "augment": ("image_size", "mean", "std"),
    "eval": ("crop_pct", "crop_mode", "interpolation"),
}
"""The settings of each section whose null stands for the model's own value."""

# Their defaults before they could be null.
_BEFORE: dict[str, dict[str, Any]] = {
    "augment": {"image_size": 224, "mean": IMAGENET_MEAN, "std": IMAGENET_STD},
    "eval": {"crop_pct": 0.875, "crop_mode": "center", "interpolation": "bicubic"},
}


def completed(recipe: Recipe, values: Mapping[str, Mapping[str, Any]]) -> Recipe:
    """The recipe with these values, by section and key, in place of its nulls.

    Args:
        recipe: stays as it is.
        values: of the keys in `LEFT_TO_THE_MODEL`; more do no harm.

    Raises:
        RecipeError: a value contradicts the recipe.
    """
    if is_complete(recipe):
        return recipe
    sections = recipe.model_dump(mode="json")
    for section, keys in LEFT_TO_THE_MODEL.items():
        for key in keys:
            if sections[section][key] is None:
                sections[section][key] = values[section][key]
    parsed = parse_recipe(sections)
    # Not `parsed` itself: which settings were given must stay known.
    return recipe.with_(
        **{
            section: {key: getattr(getattr(parsed, section), key) for key in keys}
            for section, keys in LEFT_TO_THE_MODEL.items()
        }
    )


def is_complete(recipe: Recipe) -> bool:
    """Whether the recipe leaves nothing to the model."""
    return all(
        getattr(getattr(recipe, section), key) is not None
        for section, keys in LEFT_TO_THE_MODEL.items()
        for key in keys
    )


def parse_stored(data: Mapping[str, Any], source: str = "recipe") -> Recipe:
    """The recipe in a checkpoint, where what was not written yet is as it was then.

    Args:
        data: nested mapping of sections.
        source: name for messages.

    Raises:
        RecipeError: this version has no such keys or values.
    """
    old = {section: {**keys, **data.get(section, {})} for section, keys in _BEFORE.items()}
    return parse_recipe({**data, **old}, source)
