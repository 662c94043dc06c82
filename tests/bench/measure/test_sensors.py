"""A GPU's sensors: which device is read, when, and what is missing."""

from __future__ import annotations

import sys

import pytest
import torch
from fake_nvml import HARDWARE, POWER_CAP, Gpu, install

from ixt.bench.measure.cell import Watch
from ixt.bench.measure.sensors import read_device

H100, L4 = "NVIDIA H100 80GB HBM3", "NVIDIA L4"


@pytest.mark.parametrize("chosen", ["1", "GPU-bb", "1,0"])
def test_the_device_that_torch_sees_is_read_and_no_other(
    monkeypatch: pytest.MonkeyPatch, chosen: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    throttled = Gpu(L4, "aa", HARDWARE, busy=True)
    host = install(monkeypatch, throttled, Gpu(H100, "bb", busy=True, energy_mj=7))
    reading = read_device(torch.device("cuda", 0))
    assert reading is not None
    assert (reading.throttled, reading.energy_mj, host.asked) == ((), 7, ["GPU-bb"])


@pytest.mark.parametrize("gpu", [Gpu(H100, "aa", mig=True), Gpu(H100, "aa", has_sensors=False)])
def test_a_part_of_a_gpu_and_one_without_sensors_have_no_reading(
    monkeypatch: pytest.MonkeyPatch, gpu: Gpu
) -> None:
    install(monkeypatch, gpu)
    assert read_device(torch.device("cuda", 0)) is None


def test_a_library_that_lacks_a_function_gives_no_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Gpu(H100, "aa"))
    del sys.modules["pynvml"].nvmlDeviceGetTotalEnergyConsumption
    assert read_device(torch.device("cuda", 0)) is None


def test_throttling_is_read_under_load_and_memory_counted_from_the_windows_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = Gpu(H100, "aa", POWER_CAP)
    install(monkeypatch, gpu)
    peak = [9 << 30]  # of the warm-up
    monkeypatch.setattr(
        torch.cuda, "reset_peak_memory_stats", lambda device: peak.__setitem__(0, 0)
    )
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: peak[0])
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: peak[0])
    watch = Watch(torch.device("cuda", 0))
    watch.begin()
    for _ in range(3):
        gpu.busy = True
        watch.busy()
        gpu.busy, peak[0] = False, 2 << 30
        gpu.energy_mj += 1000
    watch.end()
    found = watch.found(num_images=60)
    assert found["throttled"] == ("power cap",)
    assert found["images_per_joule"] == 20
    assert found["peak_allocated_gib"] == found["peak_reserved_gib"] == 2
    assert [reading["sm_mhz"] for reading in watch.checks()["readings"]] == [1980] * 3
