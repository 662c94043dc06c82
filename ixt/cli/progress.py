"""Progress bars with the time that is left, for commands that work through files."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ixt.errors import printable
from ixt.images.progress_lines import Pace, Report, report_lines


@contextmanager
def progress(title: str, noun: str, shown: bool = True) -> Iterator[Report]:
    """Show a bar on a terminal, and a line now and then elsewhere, as long as the block runs.

    `noun` is what is counted; of several processes only the first one is `shown`.
    """
    from ixt.monitor.status_line import Status, StatusLine, terminal

    console = terminal() if shown else None
    if console is None:
        yield report_lines(title, noun, _say) if shown else lambda done, total: None
        return
    pace, now = Pace(period_s=1.0), Status(0, None, None, [title])

    def report(done: int, total: int) -> None:
        nonlocal now
        per_s = pace.per_s(done)
        if pace.is_due():
            pace.mark(done)
        left_s = (total - done) / per_s if per_s > 0 else None
        now = Status(done, total, left_s, [title, f"{done:,} of {total:,} {noun}"])

    with StatusLine(console, lambda: now):
        yield report


def _say(line: str) -> None:
    # Looked up for each line: where C libraries' words are caught, it is another one meanwhile.
    print(printable(line), file=sys.stderr, flush=True)
