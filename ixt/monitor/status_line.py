"""One moving line on a terminal of any width, about work under way; it never wraps.

The bar, the share that is done and the time left are always there. Fields follow in the order of
their importance; where the terminal is too narrow, the last ones are left out.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ixt.errors import printable
from ixt.images.progress_lines import eta_text

_GAP = 2
_SHORTEST = 8  # columns of a field that is cut
_REFRESHES_PER_S = 4


def terminal() -> Console | None:
    """The console of a terminal where a line can be drawn again; None where stderr is none.

    A notebook's `!command` pretends to be a terminal (also by FORCE_COLOR), and then shows every
    version of a line.
    """
    dumb = os.environ.get("TERM", "").lower() in ("", "dumb", "unknown")
    if dumb or "JPY_PARENT_PID" in os.environ or not sys.stderr.isatty():
        return None
    return Console(stderr=True, force_terminal=True)


@dataclass(frozen=True)
class Status:
    """How far the work has got."""

    done: int
    total: int | None
    """None while it is unknown."""
    left_s: float | None
    """Seconds that it will take; None while that is unknown."""
    fields: Sequence[str]
    """More about it, most important first."""


class StatusLine:
    """Draws a status several times per second, within a `with` block; then the line is gone."""

    def __init__(self, console: Console, read: Callable[[], Status]) -> None:
        """Prepare the line; `read` gives the status of now, and is called from another thread."""
        self._read = read
        self._live = Live(
            self,
            console=console,
            transient=True,
            refresh_per_second=_REFRESHES_PER_S,
            redirect_stdout=sys.stdout.isatty(),  # else what is printed meanwhile goes astray
        )

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw it as wide as the terminal is now."""
        yield draw(self._read(), options.max_width)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        self._live.stop()


def draw(status: Status, width: int) -> Table:
    """A status as one line of at most this many columns."""
    done, total = status.done, status.total
    share = f"{100 * done // total:3}%" if total else "   -"
    words = [share] if status.left_s is None else [share, f"ETA {eta_text(status.left_s)}"]
    length = max(10, min(24, width // 5))
    words += fitting(status.fields, width - length - sum(_GAP + len(word) for word in words))
    line = Table.grid(padding=(0, _GAP, 0, 0), pad_edge=False)
    for _ in range(1 + len(words)):
        line.add_column(no_wrap=True, overflow="crop")
    bar = ProgressBar(total=total or None, completed=done, width=length)
    line.add_row(bar, *map(Text, words))
    return line


def fitting(fields: Sequence[str], columns: int) -> list[str]:
    """As many of the first fields as fit, with the gaps before them; the very first is cut."""
    kept: list[str] = []
    for field in map(printable, fields):
        columns -= _GAP
        if cell_len(field) > columns:
            if not kept and columns >= _SHORTEST:
                first = Text(field)
                first.truncate(columns, overflow="ellipsis")
                kept.append(first.plain)
            break
        columns -= cell_len(field)
        kept.append(field)
    return kept
