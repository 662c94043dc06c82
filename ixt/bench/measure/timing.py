"""Time a step: warm up until the rate has settled, then windows of many steps each.

The device is waited for once per window, never after a step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ixt.bench.results import Protocol

Step = Callable[[], object]

_AGREEING = 3  # windows in a row
_MIN_WARMUP_STEPS = 5


@dataclass(frozen=True)
class Timed:
    """What `time_step` measured."""

    seconds_per_step: tuple[float, ...]
    """One per window."""
    steps: int
    """Steps in all windows."""
    warmup_s: float
    settled: bool
    """Whether it ended by agreement."""


def time_step(
    step: Step,
    protocol: Protocol,
    device: torch.device,
    before_windows: Callable[[], None] = lambda: None,
    while_busy: Callable[[], None] = lambda: None,
) -> Timed:
    """Measure a step.

    On CUDA, windows are timed with events; elsewhere with the wall clock. `before_windows` is
    called between the warm-up and the first window, `while_busy` in each window on CUDA, while its
    steps are enqueued and not done.
    """
    start_s = time.perf_counter()
    window_s = protocol.seconds / protocol.windows
    settled, step_s = _warm_up(step, protocol, device)
    warmup_s = time.perf_counter() - start_s
    before_windows()
    count = max(1, math.ceil(window_s / step_s))
    windows = tuple(_window(step, count, device, while_busy) for _ in range(protocol.windows))
    return Timed(windows, count * protocol.windows, warmup_s, settled)


def _warm_up(step: Step, protocol: Protocol, device: torch.device) -> tuple[bool, float]:
    """Run until three windows agree; whether they did, and seconds per step of the last one."""
    deadline_s = time.perf_counter() + protocol.max_warmup * protocol.seconds
    window_s = protocol.seconds / protocol.windows
    # The first steps compile, choose algorithms and fill the allocator.
    step_s = _window(step, 1, device)
    for _ in range(_MIN_WARMUP_STEPS - 1):
        if time.perf_counter() > deadline_s:
            return False, step_s
        step_s = _window(step, 1, device)
    recent: list[float] = []
    while time.perf_counter() < deadline_s:
        step_s = _window(step, max(1, math.ceil(window_s / step_s)), device)
        recent = [*recent, step_s][-_AGREEING:]
        if len(recent) == _AGREEING and max(recent) <= min(recent) * (1 + protocol.agreement):
            return True, step_s
    return False, step_s


def _window(
    step: Step, count: int, device: torch.device, while_busy: Callable[[], None] = lambda: None
) -> float:
    """Seconds per step over `count` steps."""
    if device.type != "cuda":
        start_s = time.perf_counter()
        for _ in range(count):
            step()
        return (time.perf_counter() - start_s) / count
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    first.record()
    for _ in range(count):
        step()
    last.record()
    while_busy()
    last.synchronize()
    return float(first.elapsed_time(last)) / 1000 / count
