"""Progress bars with the time that is left, for commands that work through files."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ixt.errors import escaped, printable
from ixt.images.progress_lines import Report, report_lines


@contextmanager
def progress(title: str, noun: str, shown: bool = True) -> Iterator[Report]:
    """Show a bar on a terminal, and a line now and then elsewhere, as long as the block runs.

    Args:
        title: what is being done.
        noun: what is counted.
        shown: False for the processes of which only the first speaks.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if shown and not console.is_terminal:
        yield report_lines(title, noun, _say)
        return
    bars = Progress(
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
    with bars:
        bar = bars.add_task(escaped(title), total=None)
        yield lambda done, total: bars.update(bar, completed=done, total=total)


def _say(line: str) -> None:
    # Looked up for each line: where C libraries' words are caught, it is another one meanwhile.
    print(printable(line), file=sys.stderr, flush=True)
