"""What the sections of a recipe are made of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]
MAX_SIDE = 4096
"""Pixels: beyond it, a batch of any size exceeds the memory of any device."""
MIN_CROP_PCT = 0.1
"""An image is resized to its side divided by it, so less takes memory without end."""
Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]
NonNegative = Annotated[int, Field(ge=0)]


Problem = tuple[str, str]
"""A key, dotted below its section, and what is wrong with its value and what to do."""


class Section(BaseModel):
    """A part of a recipe: frozen, and strict about its keys."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        protected_namespaces=(),
        allow_inf_nan=False,
    )

    def problems(self) -> Iterator[Problem]:
        """Contradictions between settings of this section, each of which has the right type."""
        yield from ()

    def _changed(self, *names: str) -> list[str]:
        """Which of these fields differ from their defaults."""
        fields = type(self).model_fields
        return [name for name in names if getattr(self, name) != fields[name].default]
