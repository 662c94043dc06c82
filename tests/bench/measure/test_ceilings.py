from __future__ import annotations

import time

import pytest
import torch

from ixt.bench.measure import ceilings, timing
from ixt.bench.measure.ceilings import measure_ceilings
from ixt.bench.measure.sensors import HostReading, other_cores, read_host
from ixt.bench.results import Protocol

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("math_settings")


def test_a_copy_counts_twice_and_a_product_two_operations_per_multiplication(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seconds = timing.Timed((0.5, 0.25, 0.5), 3, 0.0, True)
    monkeypatch.setattr(ceilings, "time_step", lambda *_: seconds)
    found = measure_ceilings(["fp32"], CPU, copy_mib=4, matmul_side=100)
    assert found.copy_gb_per_s == 2 * 4 * 2**20 / 0.25 / 1e9
    assert found.matmul_tflops == {"fp32": pytest.approx(2 * 100**3 / 0.25 / 1e12)}


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device has them")
def test_arithmetic_that_the_device_lacks_is_left_out() -> None:
    short = Protocol(seconds=0.01, windows=3, agreement=0.5, max_warmup=1.0)
    found = measure_ceilings(["tf32", "fp32", "bf16"], CPU, short, copy_mib=1, matmul_side=64)
    assert list(found.matmul_tflops) == ["fp32", "bf16"]
    assert min(found.copy_gb_per_s, *found.matmul_tflops.values()) > 0


def test_other_cores_are_those_that_worked_for_somebody_else() -> None:
    first = HostReading(at_s=10.0, busy_s=100.0, own_s=5.0)
    last = HostReading(at_s=14.0, busy_s=110.0, own_s=9.0)
    assert other_cores(first, last) == 1.5
    # The counters tick in hundredths of a second: no rounding may give less than none.
    assert other_cores(first, HostReading(at_s=11.0, busy_s=101.0, own_s=6.01)) == 0.0


def test_the_own_work_is_counted_as_own() -> None:
    first, end_s = read_host(), time.perf_counter() + 0.3
    while time.perf_counter() < end_s:
        pass
    last = read_host()
    # Others may take the core for a while, but the host was at least as busy as this process.
    assert 0.02 < last.own_s - first.own_s < last.at_s - first.at_s + 0.02
    assert last.busy_s - first.busy_s > last.own_s - first.own_s - 0.05
