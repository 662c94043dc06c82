"""Progress of long work as lines, where no bar is drawn: in log files, and while a run starts."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

Report = Callable[[int, int], None]
"""Called with the count done and the count in all."""

_PERIOD_S = 15.0
_WINDOW = 10  # lines over which the rate is taken: what an earlier call did is passed over fast


def report_lines(
    title: str, noun: str, write: Callable[[str], None], period_s: float = _PERIOD_S
) -> Report:
    """A report of progress that writes a line now and then, and none of what is soon done.

    Args:
        title: what is being done.
        noun: what is counted.
        write: takes each line.
        period_s: seconds between two lines, and before the first.

    Returns:
        to be called by one thread at a time.
    """
    marks = deque([(time.monotonic(), 0)], maxlen=_WINDOW)

    def report(done: int, total: int) -> None:
        now_s = time.monotonic()
        if now_s - marks[-1][0] < period_s:
            return
        marks.append((now_s, done))
        per_s = (done - marks[0][1]) / (now_s - marks[0][0])
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
