"""What the sections of a recipe are made of."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, model_validator
from pydantic_core import CoreSchema, core_schema


@dataclass(frozen=True)
class Allowed:
    """What a field allows, in words, where its type does not show it: for `ixt explain`."""

    words: str


# Beyond these limits a value is a slip of the finger, or exceeds any machine.
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1, le=2**31 - 1)]
NonNegative = Annotated[int, Field(ge=0, le=2**31 - 1)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
Images = Annotated[int, Field(ge=1, le=2**20)]
"""Images of a batch."""
Epochs = Annotated[int, Field(ge=1, le=1_000_000)]
Threads = Annotated[int, Field(ge=1, le=1024)]
LearningRate = Annotated[float, Field(ge=0.0, le=1000.0)]
Duration = Annotated[float, Field(gt=0.0, le=1e9)]
"""Seconds or minutes; a system's timers take no more."""
_Aspect = Annotated[float, Field(le=1000.0)]
ShareRange = Annotated[tuple[Fraction, Fraction], Allowed("[low, high] with 0 < low <= high <= 1")]
AspectRange = Annotated[
    tuple[_Aspect, _Aspect], Allowed("[low, high] with 0 < low <= high <= 1,000")
]
MAX_SIDE = 4096
"""Pixels: beyond it, a batch of any size exceeds the memory of any device."""
MIN_CROP_PCT = 0.1
"""An image is resized to its side divided by it, so less takes memory without end."""
Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]

_WORDS = {"yes": True, "on": True, "true": True, "no": False, "off": False, "false": False}


class MayBeNull:
    """Lets null stand for the model's own value, until `ixt.models.own` puts that in its place.

    The field keeps the type that it has then: nothing is computed from a recipe before.
    """

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """The schema of the field's type, or null."""
        return core_schema.nullable_schema(handler(source))


OWN: Any = None
"""The default of such a field."""

Problem = tuple[str, str]
"""A key, dotted below its section, and what is wrong with its value and what to do."""


class Section(BaseModel):
    """A part of a recipe: frozen, and strict about its keys and types.

    An integer will do for a float; a text, a boolean or a float for an integer will not.
    """

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        use_attribute_docstrings=True,
        protected_namespaces=(),
        allow_inf_nan=False,
    )

    @model_validator(mode="before")
    @classmethod
    def _as_yaml_means_it(cls, data: Any) -> Any:
        """YAML has lists for tuples, and since 1.2 texts for yes and no."""
        if not isinstance(data, Mapping):
            return data
        return {name: _converted(value, cls.model_fields.get(name)) for name, value in data.items()}

    def problems(self) -> Iterator[Problem]:
        """Contradictions between settings of this section, each of which has the right type."""
        yield from ()

    def _changed(self, *names: str) -> list[str]:
        """Which of these fields differ from their defaults."""
        fields = type(self).model_fields
        return [name for name in names if getattr(self, name) != fields[name].default]


def argument_problems(
    key: str, given: Mapping[str, Any], own: Mapping[str, str]
) -> Iterator[Problem]:
    """What no keyword argument of a model or an optimizer can be.

    Args:
        key: the field.
        given: its arguments.
        own: what to write instead of those that may not be given.
    """
    for name, value in given.items():
        if name in own:
            yield f"{key}.{name}", f"is not given here; {own[name]}"
        elif (wrong := _wrong_leaf(value)) is not None:
            yield f"{key}.{name}", f"is {wrong}; give finite numbers, texts, true, false or null"


def _wrong_leaf(value: Any) -> str | None:
    """The first value that is infinite, or that JSON does not know, in words."""
    if isinstance(value, dict):
        return next(filter(None, map(_wrong_leaf, [*value.keys(), *value.values()])), None)
    if isinstance(value, list | tuple):
        return next(filter(None, map(_wrong_leaf, value)), None)
    huge = isinstance(value, int) and abs(value) >= 2**63
    finite = not huge and (not isinstance(value, float) or math.isfinite(value))
    fine = finite and (value is None or isinstance(value, int | float | str))
    return None if fine else str(value)[:40]


def _converted(value: Any, field: Any) -> Any:
    kinds = () if field is None else (field.annotation, *get_args(field.annotation))
    if bool in kinds and isinstance(value, str):
        return _WORDS.get(value.lower(), value)
    return tuple(value) if isinstance(value, list) else value
