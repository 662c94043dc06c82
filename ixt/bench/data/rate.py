"""How fast pieces of a loader run: images per second, CPU time and memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psutil
import torch


@dataclass(frozen=True)
class Rate:
    """What was measured over at least the time asked for."""

    images_per_s: float
    cpu_ms_per_image: float
    """CPU time of the whole process, all threads."""
    resident_mib: float
    """Most resident memory seen after a batch."""

    @property
    def images_per_s_per_core(self) -> float:
        """What one core of one's own would deliver."""
        return 1000 / self.cpu_ms_per_image if self.cpu_ms_per_image else float("inf")


def measure_rate(
    steps: Iterator[Any],
    images_per_step: int,
    seconds: float,
    device: torch.device,
    *,
    warmup_steps: int = 1,
) -> Rate:
    """Take steps for a while.

    `steps` are endless, each item one step's work; the first `warmup_steps` are not counted: what
    works ahead has filled its queue then. `seconds` is the shortest time, and the device is waited
    for at both ends of it.
    """

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    for _ in range(warmup_steps):
        next(steps)
    wait()
    process, count, resident = psutil.Process(), 0, 0
    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    while time.perf_counter() - start_s < seconds:
        next(steps)
        count += images_per_step
        resident = max(resident, process.memory_info().rss)
    wait()
    elapsed_s, cpu_s = time.perf_counter() - start_s, time.process_time() - start_cpu_s
    return Rate(count / elapsed_s, 1000 * cpu_s / count, resident / 2**20)
