"""What may disturb a measurement: a GPU's clocks and power (NVML), other load on a CPU."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import psutil
import torch

# What lowers the clocks below what the device would otherwise run at; an idle device's low
# clocks, and clocks that the user set, are not throttling.
_REASONS = {
    "nvmlClocksEventReasonSwPowerCap": "power cap",
    "nvmlClocksThrottleReasonHwSlowdown": "hardware slowdown",
    "nvmlClocksEventReasonSwThermalSlowdown": "thermal slowdown",
    "nvmlClocksThrottleReasonHwThermalSlowdown": "hardware thermal slowdown",
    "nvmlClocksThrottleReasonHwPowerBrakeSlowdown": "power brake",
}


@dataclass(frozen=True)
class Reading:
    """The device at one moment."""

    energy_mj: int
    """Millijoules drawn since the driver was loaded."""
    sm_mhz: int
    """Clock of the multiprocessors."""
    memory_mhz: int
    """Clock of the memory."""
    power_limit_w: float
    driver: str
    throttled: tuple[str, ...]
    """Reasons for which the clocks are lowered now; an idle device has none."""


def read_device(device: torch.device) -> Reading | None:
    """Read a CUDA device's sensors, by the UUID that torch gives it.

    None on a CPU, where NVML or a sensor is missing, and for a part of a GPU (MIG): the sensors of
    the whole show what its other parts do, too.
    """
    if device.type != "cuda":
        return None
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no package, no library, no driver: there is nothing to read
        return None
    try:
        uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        return _read(pynvml, pynvml.nvmlDeviceGetHandleByUUID(uuid))
    except (pynvml.NVMLError, AttributeError):  # no such device, sensor or function
        return None


def _read(nvml: Any, handle: Any) -> Reading:
    bits = nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
    return Reading(
        energy_mj=nvml.nvmlDeviceGetTotalEnergyConsumption(handle),
        sm_mhz=nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
        memory_mhz=nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM),
        power_limit_w=nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000,
        driver=str(nvml.nvmlSystemGetDriverVersion()),
        throttled=tuple(text for name, text in _REASONS.items() if bits & getattr(nvml, name, 0)),
    )


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
