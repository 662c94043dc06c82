"""How far a long extraction is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ixt.images.progress_lines import eta_text

_BAR_PERIOD_S = 0.25
_LINE_PERIOD_S = 30.0
_WINDOW = 10  # lines over which the rate is taken: a resumed run passes over what is there fast


@dataclass
class Meter:
    """Counts of a running extraction; safe to add to from any thread."""

    label: str
    total_bytes: int
    num_bytes: int = 0
    num_images: int = 0
    num_written: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, num_bytes: int, num_images: int, num_written: int) -> None:
        """Count bytes and images that are dealt with, and how many of them were written."""
        with self._lock:
            self.num_bytes += num_bytes
            self.num_images += num_images
            self.num_written += num_written


@contextmanager
def shown(meter: Meter) -> Iterator[None]:
    """Show a meter on stderr while the block runs."""
    ended = threading.Event()
    follow = _bar if sys.stderr.isatty() else _lines
    thread = threading.Thread(target=follow, args=(meter, ended.wait), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _lines(meter: Meter, wait: Callable[[float], bool]) -> None:
    marks = deque([(time.monotonic(), meter.num_bytes)], maxlen=_WINDOW)
    while not wait(_LINE_PERIOD_S):
        marks.append((time.monotonic(), meter.num_bytes))
        elapsed_s = marks[-1][0] - marks[0][0]
        bytes_per_s = (marks[-1][1] - marks[0][1]) / elapsed_s
        left_s = (meter.total_bytes - meter.num_bytes) / bytes_per_s if bytes_per_s else 0
        print(
            f"{meter.label}: {meter.num_bytes / max(1, meter.total_bytes):.0%}, "
            f"{meter.num_images:,} images, {bytes_per_s / 1e6:.0f} MB/s, "
            f"{eta_text(left_s) if bytes_per_s else 'unknown'} left",
            file=sys.stderr,
            flush=True,
        )


def _bar(meter: Meter, wait: Callable[[float], bool]) -> None:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("{task.fields[images]:,} images"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    ) as progress:
        task = progress.add_task(meter.label, total=meter.total_bytes, images=0)
        done = False
        while not done:
            done = wait(_BAR_PERIOD_S)
            progress.update(task, completed=meter.num_bytes, images=meter.num_images)
