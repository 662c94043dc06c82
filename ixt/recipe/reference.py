"""What each field of a recipe means, read from the schema: `ixt explain` and recipes/README.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from ixt.errors import RecipeError, printable
from ixt.recipe.schema import Recipe
from ixt.recipe.section import Allowed, MayBeNull, Section

_TYPES = {
    int: "a whole number",
    float: "a number",
    str: "a string",
    bool: "true or false",
    dict: "a mapping",
    NoneType: "null",
}
_UNLIMITED = (2**31 - 1, 2**63 - 1)
"""Limits of whole numbers that only exclude slips: no reader needs them."""


@dataclass(frozen=True)
class Entry:
    """A field of a recipe in words."""

    key: str
    """Section and name: `optim.lr`."""
    allowed: str
    """Type and range, or the values that may be given."""
    default: str
    """Default as YAML writes it; `required` where there is none."""
    meaning: str
    """What it does, with its unit."""


def entries() -> list[Entry]:
    """Every field, section by section, in the order of the schema."""
    return [
        Entry(f"{section}.{name}", _allowed(field), _default(field), _text(field.description))
        for section, fields in _sections()
        for name, field in fields.items()
    ]


def section_meanings() -> dict[str, str]:
    """What each section is about, by its name, in the order of the schema."""
    kinds = {name: field.annotation for name, field in Recipe.model_fields.items()}
    return {name: _text(kind.__doc__) for name, kind in kinds.items() if kind is not None}


def explain(key: str) -> list[Entry]:
    """The entry of a field, or those of a section, or of all fields with this word in their name.

    Args:
        key: `section.field`, `section`, or a word, e.g. `batch_size`.

    Raises:
        RecipeError: there is none; the message names similar ones.
    """
    every = entries()
    section, _, name = key.partition(".")
    found = [e for e in every if e.key == key or (not name and e.key.split(".")[0] == section)]
    if not found and not name:
        exact = [entry for entry in every if entry.key.split(".")[1] == key]
        within = [entry for entry in every if len(key) > 3 and key in entry.key.split(".")[1]]
        found = within or exact
    if found:
        return found
    raise RecipeError(f"{printable(key)}: recipes have no such field; {_advice(key, every)}")


def _advice(key: str, every: list[Entry]) -> str:
    full = {entry.key.split(".")[1]: entry.key for entry in every}
    words = [entry.key for entry in every] + list(section_meanings()) + list(full)
    near = get_close_matches(key, words, n=3, cutoff=0.6)
    keys = list(dict.fromkeys(full.get(word, word) for word in near))
    return f"did you mean {' or '.join(keys)}?" if keys else "`ixt explain` lists the sections"


def markdown() -> str:
    """All fields as Markdown: a heading and a table per section."""
    every = entries()
    lines: list[str] = []
    for section, meaning in section_meanings().items():
        lines += [f"### {section}", "", meaning, ""]
        lines += ["| field | allowed | default | meaning |", "|---|---|---|---|"]
        for entry in every:
            if entry.key.startswith(f"{section}."):
                cells = (f"`{entry.key}`", entry.allowed, f"`{entry.default}`", entry.meaning)
                lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        lines.append("")
    return "\n".join(lines)


def _sections() -> Iterator[tuple[str, Mapping[str, FieldInfo]]]:
    for name, field in Recipe.model_fields.items():
        assert isinstance(field.annotation, type)
        yield name, field.annotation.model_fields


def _text(docstring: str | None) -> str:
    return " ".join((docstring or "").split())


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True, validated_data={})
    return "required" if value is PydanticUndefined else _yaml(value)


def _yaml(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_yaml, value))}]"
    return str(value)


def _allowed(field: FieldInfo) -> str:
    for limit in field.metadata:
        if isinstance(limit, Allowed):
            return limit.words
    left_open = any(isinstance(limit, MayBeNull) for limit in field.metadata)
    return _kind(field.annotation, field.metadata) + (", or null" if left_open else "")


def _kind(annotation: Any, limits: Any = ()) -> str:
    """A type and its limits in words."""
    origin, args = get_origin(annotation), get_args(annotation)
    if hasattr(annotation, "__metadata__"):
        return _kind(args[0], annotation.__metadata__)
    if origin in (Union, UnionType):
        return ", or ".join(dict.fromkeys(_kind(arg, limits) for arg in args))
    if origin is Literal:
        return _either([f"`{value}`" for value in args])
    if origin is tuple:
        return _tuple(args)
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return f"a mapping of {_either([f'`{name}`' for name in annotation.model_fields], 'and')}"
    words = _TYPES.get(origin or annotation, getattr(annotation, "__name__", str(annotation)))
    return words + _range(limits)


def _tuple(args: tuple[Any, ...]) -> str:
    if args[-1] is ...:
        return f"a list, each item {_kind(args[0])}"
    return f"a list of {len(args)} items, each {_kind(args[0])}"


def _either(words: list[str], joined_by: str = "or") -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {joined_by} {words[-1]}"


def _range(limits: Any) -> str:
    """The limits of a number, e.g. " from 0 to 1"."""
    found = {
        kind: getattr(limit, kind)
        for limit in _flat(limits)
        for kind in ("ge", "gt", "le", "lt")
        if getattr(limit, kind, None) not in (None, *_UNLIMITED)
    }
    if "ge" in found and "le" in found:
        return f" from {_number(found['ge'])} to {_number(found['le'])}"
    words = {"ge": "of at least", "gt": "above", "le": "up to", "lt": "below"}
    parts = [f"{words[kind]} {_number(value)}" for kind, value in sorted(found.items())]
    return f" {' and '.join(parts)}" if parts else ""


def _flat(limits: Any) -> Iterator[Any]:
    """Limits, also those inside a pydantic `Field`."""
    for limit in limits:
        yield from limit.metadata if isinstance(limit, FieldInfo) else (limit,)


def _number(value: Any) -> str:
    """A limit with separators and without an empty fraction: 1,000,000."""
    return f"{int(value):,}" if value == int(value) else str(value)
