"""A recipe as YAML in which a comment stands above each value that was chosen."""

from __future__ import annotations

import json
import textwrap
from typing import Any

from ixt.errors import DataError, printable
from ixt.recipe import Recipe, parse_recipe
from ixt.recipe.plain_yaml import read_plain

_WIDTH = 100


class Lines:
    """Grows line by line."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._sections: dict[str, dict[str, Any]] = {}

    def section(self, name: str) -> None:
        """Start a section of the recipe."""
        self._lines.append(f"{name}:")
        self._sections[name] = {}

    def put(self, key: str, value: Any, why: str = "") -> None:
        """Add a value to the section, under a comment that says why it was chosen."""
        indent = "  # "
        self._lines += textwrap.wrap(
            printable(why), _WIDTH, initial_indent=indent, subsequent_indent=indent
        )
        self._lines.append(f"  {key}: {_plain(value)}")
        list(self._sections.values())[-1][key] = value

    def text(self, header: list[str]) -> str:
        """The YAML, below a comment.

        Raises:
            DataError: a name in it cannot be written as YAML.
        """
        comment = [f"# {printable(line)}".rstrip() for line in header]
        text = "\n".join([*comment, *self._lines]) + "\n"
        if self._read(text) != self.recipe():
            raise DataError(
                f"{self._sections['data']['root']}: a recipe cannot hold this name; rename it"
            )
        return text

    def recipe(self) -> Recipe:
        """The checked recipe."""
        return parse_recipe(self._sections, "the first recipe")

    @staticmethod
    def _read(text: str) -> Recipe | None:
        try:
            text.encode()
        except UnicodeEncodeError:
            return None
        return parse_recipe(read_plain(text, "the first recipe"), "the first recipe")


def _plain(value: Any) -> str:
    """A value in YAML: JSON, but for words without quotes and numbers that are easy to read."""
    if (
        isinstance(value, str)
        and value.replace("_", "").replace("-", "").replace(".", "").isalnum()
    ):
        return value
    if isinstance(value, float) and 0 < value < 0.01:
        mantissa, exponent = f"{value:e}".split("e")
        return f"{float(mantissa)}e{int(exponent)}"
    return json.dumps(value, ensure_ascii=False)
