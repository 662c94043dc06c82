"""Which process slows the others down, found from numbers that come with every log row."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

import torch

_FACTOR = 1.5
_SHARE = 0.05  # of the interval: less is noise
_INTERVALS = 3


@dataclass(frozen=True)
class RankTimes:
    """Times of one process in a log interval, in seconds."""

    waited_s: float
    """Time spent waiting for data."""
    forward_s: float
    """Time in forward passes, where processes do not wait for each other."""

    @property
    def own_s(self) -> float:
        """What the process took for itself."""
        return self.waited_s + self.forward_s


def slowest(times: Sequence[RankTimes]) -> int:
    """The rank that took longest for itself."""
    return max(range(len(times)), key=lambda rank: times[rank].own_s)


class SlowRank:
    """Says once per rank that it slows the others down."""

    def __init__(self, hosts: Sequence[str]) -> None:
        self._hosts = hosts
        self._suspect, self._times = -1, 0
        self._named: set[int] = set()

    def look(self, times: Sequence[RankTimes], elapsed_s: float) -> str | None:
        """A line about a rank that was slow in three consecutive intervals; None if there is none.

        Slow is 1.5 times the median wait for data, or the median forward pass, and more than 5 %
        of the interval above it.
        """
        rank = slowest(times)
        waits = [t.waited_s for t in times]
        forwards = [t.forward_s for t in times]
        slow = _stands_out(waits, rank, elapsed_s) or _stands_out(forwards, rank, elapsed_s)
        self._times = (self._times + 1 if rank == self._suspect else 1) if slow else 0
        self._suspect = rank
        if self._times < _INTERVALS or rank in self._named:
            return None
        self._named.add(rank)
        # The lower one of two: else nothing is 1.5 times the mean of itself and a small number.
        wait, forward = statistics.median_low(waits), statistics.median_low(forwards)
        return (
            f"rank {rank} on {self._hosts[rank]} slows the others down: it waited for data "
            f"{waits[rank] / elapsed_s:.0%} of the time (median {wait / elapsed_s:.0%}) and its "
            f"forward passes took {forwards[rank]:.2f} s (median {forward:.2f} s) in the last "
            f"{elapsed_s:.1f} s"
        )


def _stands_out(seconds: Sequence[float], rank: int, elapsed_s: float) -> bool:
    median = statistics.median_low(seconds)
    return seconds[rank] > _FACTOR * median and seconds[rank] - median > _SHARE * elapsed_s


class Stopwatch:
    """Adds up the time of `with` blocks on a device, which is not waited for until it is read."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self.restart()

    def restart(self) -> None:
        """Begin at zero."""
        self._events: list[torch.cuda.Event] = []
        self._start_s = self._total_s = 0.0

    def __enter__(self) -> None:
        if self._cuda:
            self._mark()
        else:
            self._start_s = perf_counter()

    def __exit__(self, *_: object) -> None:
        if self._cuda:
            self._mark()
        else:
            self._total_s += perf_counter() - self._start_s

    def read_s(self) -> float:
        """Seconds so far; waits for the last block to end on the device."""
        if not self._events:
            return self._total_s
        self._events[-1].synchronize()
        pairs = zip(self._events[::2], self._events[1::2], strict=True)
        return sum(float(start.elapsed_time(end)) for start, end in pairs) / 1000

    def _mark(self) -> None:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        self._events.append(event)
