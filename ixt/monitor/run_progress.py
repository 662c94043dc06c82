"""How far a run is: a moving line on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console

from ixt.images.progress_lines import Pace, eta_text
from ixt.monitor import activity
from ixt.monitor.status_line import Status, StatusLine

_WARM_UP = 3  # updates in which kernels are compiled and decoders start
_FIRST_ETA_S = 10.0  # of updates after those; an earlier estimate would be a guess
_PERIOD_S = 5.0  # between lines in a log file
_USUAL = ("computing", "waiting for data")


class RunProgress:
    """Knows the updates done, the newest log row, and when the run will probably end.

    The time left is that of the remaining updates at the mean pace of this process's life;
    evaluations and checkpoints are in it from the first one on.
    """

    def __init__(
        self, step: int, total: int, say: Callable[[str], None], console: Console | None = None
    ) -> None:
        """Begin after `step` updates; without a terminal as console, lines are printed."""
        self._first, self._step, self._total = step, step, total
        self._say = say
        self._row: Mapping[str, Any] | None = None
        self._pace: Pace | None = None
        self._ends_s: float | None = None
        self._said_s = -_PERIOD_S
        self._line = StatusLine(console, self._status) if console is not None else None
        if self._line is not None:
            self._line.__enter__()

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._line is not None:
            self._line.__exit__()

    def advance(self) -> None:
        """One more update is done."""
        self._step += 1
        if self._step == self._first + _WARM_UP:
            self._pace = Pace(self._step, _FIRST_ETA_S)
        elif self._pace is not None and self._pace.is_due():
            left_s = (self._total - self._step) / self._pace.per_s(self._step)
            self._ends_s = time.monotonic() + left_s

    def show(self, row: Mapping[str, Any]) -> None:
        """Take a log row; print it, unless a line was printed just before or moves."""
        self._row = row
        now_s, last = time.monotonic(), row["step"] >= self._total
        if self._line is None and (last or now_s - self._said_s >= _PERIOD_S):
            self._said_s, left_s = now_s, self._left_s()
            eta = [] if left_s is None or last else [f"ETA {eta_text(left_s)}"]
            self._say("  ".join([*_fields(row, self._count(row["step"])), *eta]))

    def _status(self) -> Status:
        step, doing = self._count(self._step), activity.last().doing
        fields = [step] if self._row is None else _fields(self._row, step)
        unusual = [] if doing in _USUAL else [doing]
        return Status(self._step, self._total, self._left_s(), [*unusual, *fields])

    def _count(self, step: int) -> str:
        return f"step {step}/{self._total}"

    def _left_s(self) -> float | None:
        return None if self._ends_s is None else max(0.0, self._ends_s - time.monotonic())


def _fields(row: Mapping[str, Any], step: str) -> list[str]:
    """What a log row says, most important first."""
    return [
        f"epoch {row['epoch']}",
        f"loss {row['loss']:.4f}",
        f"{row['images_per_s']:,.0f} images/s",
        step,
        f"lr {row['lr']:.2e}",
        f"data wait {row['data_wait']:.0%}",
        f"{row['memory_gib']:.1f} GiB",
    ]
