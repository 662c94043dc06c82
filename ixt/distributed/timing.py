"""Clock, waiting and threads of what watches a run: passed in, so that tests can simulate them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass


def _start(target: Callable[[], None], name: str) -> Callable[[], None]:
    thread = threading.Thread(target=target, name=name, daemon=True)
    thread.start()
    return thread.join


@dataclass(frozen=True)
class Timing:
    """The machine's own, unless others are given."""

    now: Callable[[], float] = time.monotonic
    """Seconds, from any start."""
    wait: Callable[[threading.Event, float | None], bool] = threading.Event.wait
    """Wait for an event, at most this many seconds if given; whether it has happened."""
    start: Callable[[Callable[[], None], str], Callable[[], None]] = _start
    """Run a function in a thread of this name; returns what waits for its end."""

    def sleep(self, duration_s: float) -> None:
        """Wait for that many seconds."""
        self.wait(threading.Event(), duration_s)


REAL = Timing()
