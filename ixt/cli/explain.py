"""`ixt explain`."""

from __future__ import annotations

import shutil
import textwrap
from typing import Annotated

import typer

from ixt.cli.app import app


@app.command(rich_help_panel="Train")
def explain(
    field: Annotated[str | None, typer.Argument()] = None,
) -> None:
    """Explain a field of recipes: its meaning, unit and default.

    Without a field, all sections and their fields are listed. The file recipes/README.md contains
    the same texts.

    Example: `ixt explain optim.lr`

    Args:
        field: A field, a section, or a word: e.g. optim.lr, optim, batch_size.
    """
    from ixt.recipe import reference

    if field is None:
        every = reference.entries()
        for section, meaning in reference.section_meanings().items():
            names = [entry.key for entry in every if entry.key.startswith(f"{section}.")]
            _print_paragraphs(f"{section}: {meaning}", ", ".join(names))
        return
    for entry in reference.explain(field):
        _print_paragraphs(
            entry.key, entry.meaning, f"allowed: {entry.allowed}", f"default: {entry.default}"
        )


def _print_paragraphs(title: str, *paragraphs: str) -> None:
    """A title and what belongs to it, indented, as wide as the terminal, at most 100 columns."""
    width = min(shutil.get_terminal_size().columns, 100)
    print(title)
    for text in paragraphs:
        print(textwrap.fill(text, width, initial_indent="    ", subsequent_indent="    "))
    print()
