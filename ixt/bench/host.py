"""How busy others keep this host: to a CPU they are what throttling is to a GPU."""

from __future__ import annotations

import time
from dataclasses import dataclass

import psutil

_IDLE = ("idle", "iowait", "guest", "guest_nice")  # guests are counted in user and nice


@dataclass(frozen=True)
class HostReading:
    """The host's processors at one moment."""

    at_s: float
    busy_s: float
    """Time that all cores together have worked for anybody, other virtual machines included."""
    own_s: float
    """Time that they have worked for this process."""


def read_host() -> HostReading:
    """Read the counters of the host and of this process."""
    times, own = psutil.cpu_times(), psutil.Process().cpu_times()
    busy_s = sum(value for name, value in times._asdict().items() if name not in _IDLE)
    return HostReading(time.perf_counter(), busy_s, own.user + own.system)


def other_cores(first: HostReading, last: HostReading) -> float:
    """Cores, on average, that worked for others between two readings."""
    others_s = (last.busy_s - first.busy_s) - (last.own_s - first.own_s)
    return max(0.0, others_s / (last.at_s - first.at_s))
