"""Tables and lines on the terminal, or in a file, where nothing need be wrapped."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from rich.console import Console
from rich.table import Table

from ixt.errors import printable

_FILE_WIDTH = 200  # characters, where the output is no terminal that would wrap them


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    words: Collection[str],
    title: str | None = None,
) -> None:
    """Print a table.

    `words` names the columns of words; the others hold numbers, which are aligned. Cells may hold
    rich's markup.
    """
    table = Table(title=title, title_justify="left")
    for name in columns:
        table.add_column(name, justify="left" if name in words else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(printable, row))
    console = Console()
    if not console.is_terminal:
        console = Console(width=_FILE_WIDTH)
    console.print(table)


def print_lines(lines: Iterable[str]) -> None:
    """Print lines however long; what is not visible in names is escaped."""
    for line in lines:
        Console().print(printable(line), highlight=False, soft_wrap=True, markup=False)
