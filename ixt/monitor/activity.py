"""What this process is doing, and since when: noted by the main thread, read by `hang.py`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from ixt.distributed.launch import rank_file

_LONG = 6.0  # a checkpoint to a busy file server, a compilation: minutes, not hours


@dataclass(frozen=True)
class Activity:
    """What began last."""

    doing: str
    """What this process does, in words, e.g. "waiting for data"."""
    count: int
    """Activities so far. Processes of a run begin the same ones in the same order."""
    at_s: float
    """When, on the monotonic clock."""
    patience: float = 1.0
    """How many times longer than usual this may take."""


class _Own:
    """This process's activity. Replaced as a whole, so that a thread never sees half of it."""

    last = Activity("starting", 0, time.monotonic(), _LONG)
    usual = _LONG


def note(doing: str, patience: float | None = None) -> None:
    """Note that this begins now. Costs less than a microsecond."""
    count = _Own.last.count + 1
    _Own.last = Activity(doing, count, time.monotonic(), patience or _Own.usual)


@contextmanager
def doing(what: str, patience: float | None = None) -> Iterator[None]:
    """Note an activity within a `with` block, and the previous one again after it."""
    before = _Own.last.doing
    note(what, patience)
    try:
        yield
    finally:
        note(before)


def long(what: str) -> AbstractContextManager[None]:
    """Note an activity that may take six times as long as an update, within a `with` block."""
    return doing(what, _LONG)


def restart() -> None:
    """Begin anew. Until the first update ends everything may take long: caches are cold."""
    _Own.usual = _LONG
    _Own.last = Activity("starting", 0, time.monotonic(), _LONG)


def cold() -> None:
    """Until the next update ends everything may take long again, e.g. to compile the model."""
    _Own.usual = _LONG


def update_done(step: int) -> None:
    """Note, for this process and for its agent, that this many updates are done."""
    _Own.usual = 1.0
    rank_file.note_step(step)
    note("computing")


def last() -> Activity:
    """What began last."""
    return _Own.last
