"""Progress of long work as lines, where no bar is drawn: in log files, and while a run starts."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
Report = Callable[[int, int], None]
"""Called with the count done and the count in all."""

_PERIOD_S = 15.0
_NUM_THREADS = 16
_WINDOW = 10  # lines over which the rate is taken: what an earlier call did is passed over fast


class Pace:
    """How fast work is, by what was done since the oldest of a few marks."""

    def __init__(self, done: int = 0, period_s: float = math.inf) -> None:
        """Set the first mark.

        Args:
            done: already.
            period_s: seconds between two marks; by default the first one stays the only one, so
                that the pace is the mean since then.
        """
        self._marks = deque([(time.monotonic(), done)], maxlen=_WINDOW)
        self._period_s = period_s

    def is_due(self) -> bool:
        """Whether the last mark is old enough for another one."""
        return time.monotonic() - self._marks[-1][0] >= self._period_s

    def mark(self, done: int) -> None:
        """Set a mark."""
        self._marks.append((time.monotonic(), done))

    def per_s(self, done: int) -> float:
        """How much is done per second; 0 where nothing was."""
        since_s, before = self._marks[0]
        elapsed_s = time.monotonic() - since_s
        return max(0, done - before) / elapsed_s if elapsed_s > 0 else 0.0


def report_lines(
    title: str, noun: str, write: Callable[[str], None], period_s: float = _PERIOD_S
) -> Report:
    """A report of progress that writes a line now and then, but none for short work.

    Args:
        title: what is being done.
        noun: what is counted.
        write: takes each line.
        period_s: seconds between two lines, and before the first.

    Returns:
        to be called by one thread at a time.
    """
    pace = Pace(period_s=period_s)

    def report(done: int, total: int) -> None:
        if not pace.is_due():
            return
        per_s = pace.per_s(done)
        pace.mark(done)
        left = eta_text((total - done) / per_s) if per_s > 0 else "unknown"
        share = done / max(1, total)
        rate = f"{per_s:,.0f} {noun}/s, " if per_s >= 1 else ""
        write(f"{title}: {share:.0%}, {done:,} of {total:,} {noun}, {rate}{left} left")

    return report


def eta_text(seconds: float) -> str:
    """`2 h 05 min`, `3 min 20 s` or `12 s`."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def map_reporting(
    function: Callable[[T], R],
    items: Sequence[T],
    report: Report | None,
    num_threads: int = _NUM_THREADS,
) -> list[R]:
    """What a function makes of each item, side by side, in order; progress is reported."""
    found = []
    with ThreadPoolExecutor(num_threads) as pool:
        for one in pool.map(function, items):
            found.append(one)
            if report is not None:
                report(len(found), len(items))
    return found
