"""The resolved recipe value by value, each with the place that it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ixt.recipe import Origins, Recipe


@dataclass(frozen=True)
class Setting:
    """One value of the resolved recipe."""

    key: str
    value: Any
    origin: str
    """`file:line`, `--set ...` or `default`."""


def list_settings(recipe: Recipe, origins: Origins) -> tuple[Setting, ...]:
    """Every value of a recipe, in the order of the schema.

    Args:
        recipe: resolved.
        origins: of `trace_recipe`; a key that is missing there has its default.
    """
    return tuple(
        Setting(key, value, origins.get(key) or _section_origin(key, origins))
        for key, value in _leaves(recipe.model_dump(mode="json"))
    )


def _leaves(data: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted keys and values of the sections; `kwargs` count as one value."""
    rows = []
    for key, value in data.items():
        if isinstance(value, dict) and not prefix:
            rows += _leaves(value, f"{key}.")
        else:
            rows.append((prefix + key, value))
    return rows


def _section_origin(key: str, origins: Origins) -> str:
    """Where a value comes from whose key is not written: the whole section's override, or none."""
    below = [place for name, place in origins.items() if name.startswith(f"{key}.")]
    section = origins.get(key.partition(".")[0], "")
    if below:
        return below[0]
    return section if section.startswith("--set") else "default"
