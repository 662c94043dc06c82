"""Progress bars with the time that is left, for commands that work through files."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Report = Callable[[int, int], None]
"""Called with the count done and the count in all."""


@contextmanager
def progress(title: str, noun: str, shown: bool = True) -> Iterator[Report]:
    """Show a bar on a terminal, and a line now and then elsewhere, as long as the block runs.

    Args:
        title: what is being done.
        noun: what is counted.
        shown: False for the processes of which only the first speaks.
    """
    with bars(noun, shown) as start:
        yield start(title)


@contextmanager
def bars(noun: str, shown: bool = True) -> Iterator[Callable[[str], Report]]:
    """As `progress`, with as many bars as are started by title within the block."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from ixt.images.progress_lines import told

    console = Console(stderr=True)
    if shown and not console.is_terminal:
        yield lambda title: told(title, noun, _say)
        return
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(noun),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not shown,
    )

    def start(title: str) -> Report:
        task = progress.add_task(title, total=None)
        return lambda done, total: progress.update(task, completed=done, total=total)

    with progress:
        yield start


def _say(line: str) -> None:
    # Looked up for each line: where C libraries' words are caught, it is another one meanwhile.
    print(line, file=sys.stderr, flush=True)
