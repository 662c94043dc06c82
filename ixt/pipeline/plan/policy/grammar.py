"""timm's strings for policies: a name, then sections such as m9 or mstd0.5 between dashes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ixt.errors import RecipeError

STRENGTH = 1000
"""The largest magnitude; operations are clipped long before it."""
OPERATIONS = 32
"""Most operations or chains of an image, each of which costs a pass over the batch."""


@dataclass(frozen=True)
class Number:
    """What a section's number may be."""

    low: float
    high: float
    whole: bool = True


def read_sections(
    text: str, numbers: Mapping[str, Number], sets: tuple[str, ...] = ()
) -> tuple[dict[str, float], str | None]:
    """The numbers of a policy string by key, and the set of operations it names.

    Stricter than timm, which skips a section that it cannot read and keeps the first or the last
    of two of the same kind.

    Args:
        text: the whole string; its first section is the caller's.
        numbers: the keys allowed.
        sets: names allowed after a t; none forbids the section.

    Raises:
        RecipeError: a section is unknown, malformed, out of range or given twice.
    """
    settings: dict[str, float] = {}
    chosen: str | None = None
    for section in text.split("-")[1:]:
        if sets and section.startswith("t"):
            if chosen is not None:
                raise RecipeError(f"policy {text!r}: t is given twice; keep one")
            chosen = _set_name(text, section, sets)
            continue
        key, value = _number(text, section, numbers, sets)
        if key in settings:
            raise RecipeError(f"policy {text!r}: {key} is given twice; keep one")
        settings[key] = value
    return settings, chosen


def _set_name(text: str, section: str, sets: tuple[str, ...]) -> str:
    name = section[1:]
    if name not in sets:
        raise RecipeError(
            f"policy {text!r}: no set of operations is called {name!r}; allowed: "
            f"{_listed(sets)} (inc0 and inc1 choose between the plain and the increasing set)"
        )
    return name


def _number(
    text: str, section: str, numbers: Mapping[str, Number], sets: tuple[str, ...]
) -> tuple[str, float]:
    """Key and value of a section like mstd0.5."""
    match = re.fullmatch(r"([a-z]+)(\d[^_]*)", section)
    if match is None or match[1] not in numbers:
        words = f", and {_listed(sets)}" if sets else ""
        hint = "; w is an older timm's word for the weighted set" if section[:1] == "w" else ""
        raise RecipeError(
            f"policy {text!r}: cannot read {section!r}; allowed: {', '.join(numbers)}, each "
            f"followed by a number{words}{hint if sets else ''}"
        )
    key, allowed = match[1], numbers[match[1]]
    try:
        value: float = int(match[2]) if allowed.whole else float(match[2])
    except ValueError:
        kind = "a whole number" if allowed.whole else "a number"
        raise RecipeError(f"policy {text!r}: {section} needs {kind}") from None
    if not allowed.low <= value <= allowed.high:
        bounds = f"between {allowed.low:g} and {allowed.high:g}"
        raise RecipeError(f"policy {text!r}: {section} is out of range; {key} must be {bounds}")
    return key, value


def _listed(sets: tuple[str, ...]) -> str:
    return ", ".join(f"t{name}" for name in sets)
