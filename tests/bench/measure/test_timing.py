from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

import pytest
import torch

from ixt.bench.measure.timing import time_step
from ixt.bench.results import Protocol

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that only the step moves."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_a_step_that_sleeps_is_reported_within_three_percent() -> None:
    slept: list[float] = []  # on a busy machine more than what was asked for

    def step() -> None:
        start_s = time.perf_counter()
        time.sleep(0.02)
        slept.append(time.perf_counter() - start_s)

    timed = time_step(step, Protocol(seconds=0.6, windows=3, agreement=0.05), CPU)
    assert min(slept) >= 0.02
    reported = statistics.fmean(timed.seconds_per_step)
    assert reported == pytest.approx(statistics.fmean(slept[-timed.steps :]), rel=0.03)


def test_the_warm_up_lasts_until_three_windows_agree(clock: list[float]) -> None:
    costs: Iterator[float] = iter([4.0] * 5 + [2.0, 1.5, 1.2] + [1.0] * 1000)

    def step() -> None:
        clock[0] += next(costs)

    called = []
    protocol = Protocol(seconds=10, windows=10, max_warmup=100)
    timed = time_step(step, protocol, CPU, lambda: called.append(clock[0]))
    assert timed.settled
    assert timed.seconds_per_step == pytest.approx((1.0,) * 10)
    # 5 first steps, then windows of 1, 1, 1 steps at 2.0, 1.5, 1.2 and three that agree.
    assert called == pytest.approx([20.0 + 2.0 + 1.5 + 1.2 + 3 * 1.0])


def test_a_rate_that_never_settles_is_measured_and_says_so(clock: list[float]) -> None:
    count = iter(range(10_000))

    def step() -> None:
        clock[0] += 1.0 + next(count) % 2

    timed = time_step(step, Protocol(seconds=4, windows=4, max_warmup=3), CPU)
    assert not timed.settled
    assert timed.warmup_s >= 12.0


def test_a_window_holds_as_many_steps_as_fill_it(clock: list[float]) -> None:
    def step() -> None:
        clock[0] += 0.25

    timed = time_step(step, Protocol(seconds=30, windows=10), CPU)
    assert timed.steps == 10 * 12
    assert timed.seconds_per_step == (0.25,) * 10
