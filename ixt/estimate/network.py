"""Bytes that ranks exchange for an update, and how long a link takes for them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ixt.bench.roofline import Device
from ixt.errors import EngineError
from ixt.estimate.memory import ModelSize, zero_stage
from ixt.recipe import Engine

_FP32 = 4
_GRADIENT_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}

# One direction, 1e9 bytes/s per GPU.
# Sources: NVIDIA's GPU datasheets (NVLink, bidirectional figures halved), PCI-SIG (x16), and the
# line rate over 8 for networks.
_LINKS = {
    "nvlink2": 150.0,
    "nvlink3": 300.0,
    "nvlink4": 450.0,
    "nvlink5": 900.0,
    "pcie3": 15.75,
    "pcie4": 31.5,
    "pcie5": 63.0,
    "10gbe": 1.25,
    "25gbe": 3.125,
    "100gbe": 12.5,
    "hdr200": 25.0,
    "ndr400": 50.0,
}
_GPUS_PER_MACHINE = 8
_SPEED = re.compile(r"(\d+(?:\.\d+)?)\s*(gbit|gb)(?:/s)?", re.IGNORECASE)


@dataclass(frozen=True)
class Link:
    """What connects the ranks."""

    name: str
    """Name of the link, as given, or the device's own."""
    gb_per_s: float
    """One direction, per GPU, in 1e9 bytes/s."""


@dataclass(frozen=True)
class Traffic:
    """What one rank sends for one update, and as much it receives."""

    sent_bytes: float
    """Bytes sent by the ring algorithms, which are optimal."""
    seconds: float
    """Seconds on the link at its nominal speed, nothing overlapped."""
    link: Link
    """The slowest link on the ring."""
    formula: str
    """How the bytes were counted."""


def find_link(name: str | None, device: Device, num_gpus: int) -> Link:
    """A link by name or speed; None for the device's own, which joins GPUs of one machine.

    Raises:
        EngineError: neither a known link nor a speed.
    """
    if name is None:
        spans = num_gpus > _GPUS_PER_MACHINE
        note = " as within one machine: give --interconnect for several" if spans else ""
        return Link(device.link + note, device.link_gb_per_s)
    if name.lower() in _LINKS:
        return Link(name, _LINKS[name.lower()])
    speed = _SPEED.fullmatch(name.strip())
    if speed is None or float(speed[1]) <= 0:
        raise EngineError(
            f"--interconnect {name}: not a known link; give {', '.join(_LINKS)}, "
            "or the speed per GPU as 200Gbit/s or 25GB/s"
        )
    return Link(name, float(speed[1]) / (8 if speed[2].lower() == "gbit" else 1))


def update_traffic(
    size: ModelSize, engine: Engine, num_gpus: int, accumulation: int, link: Link
) -> Traffic:
    """What the ranks exchange for one optimizer update.

    Source: Patarasuk and Yuan 2009, "Bandwidth optimal all-reduce algorithms": a ring sends
    2 (n - 1) / n of the data, a reduce-scatter or an all-gather half of that; ZeRO's collectives
    from Rajbhandari et al. 2020, "ZeRO", section 7.

    P in the formula are the trained parameters; weights are fp32, gradients travel in the engine's
    type. ZeRO 3 gathers frozen parameters, too. `accumulation` is micro-batches of one rank.
    """
    stage, k = zero_stage(engine), accumulation
    gradient, frozen = _GRADIENT_BYTES[engine.gradient_dtype], size.params - size.trained_params
    if stage == 3:
        each = k * gradient + 2 * k * _FP32
        formula = f"(n-1)/n x {k} micro-batches x ({gradient} P scatter + 2 gathers of 4 P)"
    elif stage == 2:
        each = k * gradient + _FP32
        formula = f"(n-1)/n x ({k} micro-batches x {gradient} P scatter + 4 P gather)"
    elif stage == 1:
        each, formula = gradient + _FP32, f"(n-1)/n x ({gradient} P scatter + 4 P gather)"
    else:
        each, formula = 2 * gradient, f"2 (n-1)/n x {gradient} P, one ring all-reduce"
    gathered = 2 * k * _FP32 * frozen if stage == 3 else 0
    if gathered:
        formula += f" + {k} micro-batches x 2 gathers of {_FP32} x {frozen:,} frozen"
    sent = (num_gpus - 1) / num_gpus * (each * size.trained_params + gathered)
    return Traffic(sent, sent / (link.gb_per_s * 1e9), link, formula)
