"""The settings of runs by dotted key, and those by which a run stands out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from ixt.recipe import parse_recipe

Settings = Mapping[str, Any]
"""Dotted key to plain value; empty where the recipe of a run is not known."""

_MOST_CHARACTERS = 40
_LAST = "data.root"  # long, and the same images may lie in several places


def flat(recipe: Mapping[str, Any]) -> Settings:
    """The settings of a resolved recipe; a key that its version did not have gets its default."""
    if not recipe:
        return {}
    written = {
        f"{section}.{key}": value
        for section, values in recipe.items()
        if isinstance(values, Mapping)
        for key, value in values.items()
    }
    return {**written, **{key: v for key, v in defaults().items() if key not in written}}


def total_epochs(settings: Settings) -> int | None:
    """Epochs of the whole run, cooldown included; None where its recipe is not known."""
    numbers = [settings.get(f"schedule.{key}") for key in ("epochs", "cooldown_epochs")]
    known = "model.name" in settings and all(type(number) is int for number in numbers)
    return sum(numbers) if known else None  # type: ignore[arg-type]


@cache
def defaults() -> Settings:
    """The value of every setting that a recipe may leave out."""
    recipe = parse_recipe({"model": {"name": "resnet18"}}).model_dump(mode="json")
    keys = {f"{s}.{key}": value for s, values in recipe.items() for key, value in values.items()}
    del keys["model.name"]
    return keys


def standing_out(settings: Sequence[Settings]) -> list[dict[str, Any]]:
    """For each run the settings that differ from the most common value among all of them.

    Where no value is the most common one, every run shows its own. A run alone shows what differs
    from the defaults.
    """
    usual = _common(settings) if len(settings) > 1 else {k: _key(v) for k, v in defaults().items()}
    return [
        {
            key: value
            for key, value in sorted(run.items(), key=lambda item: item[0] == _LAST)
            if _key(value) != usual.get(key)
        }
        for run in settings
    ]


def short(settings: Mapping[str, Any], most: int = 3) -> str:
    """The first settings as they would be given to --set, and the number of the others."""
    texts = [f"{key}={value_text(value)}" for key, value in settings.items()]
    more = len(texts) - most
    return " ".join(texts[:most]) + (f" and {more} more" if more > 0 else "")


def value_text(value: Any) -> str:
    """A value, shortened where it is long."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 3]}..."


def differing(first: Settings, second: Settings) -> list[str]:
    """The keys whose values two runs do not share."""
    keys = dict.fromkeys([*first, *second])
    return [key for key in keys if _key(first.get(key)) != _key(second.get(key))]


def _common(settings: Sequence[Settings]) -> dict[str, str | None]:
    """The most common value of each key, as a comparable text; None where there is not one."""
    known = [run for run in settings if run]
    common: dict[str, str | None] = {}
    for key in dict.fromkeys(key for run in known for key in run):
        counted = Counter(_key(run[key]) for run in known if key in run).most_common(2)
        tied = len(counted) > 1 and counted[0][1] == counted[1][1]
        common[key] = None if tied else counted[0][0]
    return common


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
