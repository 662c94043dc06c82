"""NVIDIA's management library and torch's view of its devices, on a machine that has neither."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

POWER_CAP, HARDWARE = 0x4, 0x8


class NVMLError(Exception):
    """What every call of the library raises."""


@dataclass
class Gpu:
    """A GPU of the host."""

    name: str
    uuid: str
    """Without the kind in front."""
    reasons: int = 0
    """Bits of why its clocks are low now."""
    busy: bool = False
    """Whether it has work; an idle one reports no reason."""
    mig: bool = False
    """Whether torch is given a part of it, which has no sensors of its own."""
    has_sensors: bool = True
    energy_mj: int = 0


@dataclass
class Host:
    """All GPUs of a host, and which of them a process asked for."""

    gpus: list[Gpu] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    """UUIDs that were looked up, with their kinds."""

    @property
    def visible(self) -> list[Gpu]:
        """Those of CUDA_VISIBLE_DEVICES, by number or UUID, in its order."""
        chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
        if chosen is None:
            return self.gpus
        known = {str(number): gpu for number, gpu in enumerate(self.gpus)}
        known |= {f"{'MIG' if gpu.mig else 'GPU'}-{gpu.uuid}": gpu for gpu in self.gpus}
        return [known[word] for word in chosen.split(",") if word in known]

    def handle(self, uuid: str) -> Gpu:
        self.asked.append(uuid)
        for gpu in self.gpus:
            if not gpu.mig and uuid == f"GPU-{gpu.uuid}":
                return gpu
        raise NVMLError("Not Found")

    def module(self) -> ModuleType:
        """In the place of `pynvml`."""

        def energy(gpu: Gpu) -> int:
            if not gpu.has_sensors:
                raise NVMLError("Not Supported")
            return gpu.energy_mj

        fake: Any = ModuleType("pynvml")
        fake.NVMLError, fake.NVML_CLOCK_SM, fake.NVML_CLOCK_MEM = NVMLError, 1, 2
        fake.nvmlClocksEventReasonSwPowerCap = POWER_CAP
        fake.nvmlClocksThrottleReasonHwSlowdown = HARDWARE
        fake.nvmlInit = lambda: None
        fake.nvmlSystemGetDriverVersion = lambda: "580.65"
        fake.nvmlDeviceGetHandleByUUID = self.handle
        fake.nvmlDeviceGetCurrentClocksThrottleReasons = lambda gpu: gpu.reasons * gpu.busy
        fake.nvmlDeviceGetTotalEnergyConsumption = energy
        fake.nvmlDeviceGetClockInfo = lambda gpu, kind: (1980 if gpu.busy else 345) // kind
        fake.nvmlDeviceGetEnforcedPowerLimit = lambda gpu: 700_000
        return fake  # type: ignore[no-any-return]


def install(monkeypatch: pytest.MonkeyPatch, *gpus: Gpu) -> Host:
    """Let `pynvml` and torch see these GPUs, torch as CUDA_VISIBLE_DEVICES says."""
    host, cuda = Host(list(gpus)), torch.cuda

    def at(device: Any) -> Gpu:
        return host.visible[torch.device(device).index or 0]

    monkeypatch.setitem(sys.modules, "pynvml", host.module())
    monkeypatch.setattr(cuda, "is_available", lambda: bool(host.visible))
    monkeypatch.setattr(cuda, "device_count", lambda: len(host.visible))
    monkeypatch.setattr(cuda, "get_device_name", lambda device=0: at(device).name)
    monkeypatch.setattr(
        cuda, "get_device_properties", lambda device=0: SimpleNamespace(uuid=at(device).uuid)
    )
    monkeypatch.setattr(cuda, "mem_get_info", lambda device=0: (79 << 30, 80 << 30))
    return host
