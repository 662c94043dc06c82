"""Bytes that ranks exchange for an update, and how long a link takes for them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ixt.errors import EngineError
from ixt.roofline import Device

_FP32 = 4

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
_SPEED = re.compile(r"(\d+(?:\.\d+)?)\s*(gbit|gb)(?:/s)?", re.IGNORECASE)


@dataclass(frozen=True)
class Link:
    """What connects the ranks."""

    name: str
    """As given, or the device's own."""
    gb_per_s: float
    """One direction, per GPU, in 1e9 bytes/s."""


@dataclass(frozen=True)
class Traffic:
    """What one rank sends for one update, and as much it receives."""

    sent_bytes: float
    """By the ring algorithms, which are optimal."""
    seconds: float
    """On the link at its nominal speed, nothing overlapped."""
    link: Link
    """The slowest link on the ring."""
    formula: str
    """How the bytes were counted."""


def find_link(name: str | None, device: Device) -> Link:
    """A link by name or speed; None for the device's own.

    Raises:
        EngineError: neither a known link nor a speed.
    """
    if name is None:
        return Link(device.link, device.link_gb_per_s)
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
    params: int, num_gpus: int, accumulation: int, stage: int | None, link: Link
) -> Traffic:
    """What the ranks exchange for one optimizer update.

    Source: Patarasuk and Yuan 2009, "Bandwidth optimal all-reduce algorithms": a ring sends
    2 (n - 1) / n of the data, a reduce-scatter or an all-gather half of that; ZeRO's collectives
    from Rajbhandari et al. 2020, "ZeRO", section 7.

    Args:
        params: parameters that are trained; gradients are fp32.
        num_gpus: ranks on the ring.
        accumulation: micro-batches of one rank per update.
        stage: ZeRO stage; None for data parallelism.
        link: what connects them.
    """
    share = (num_gpus - 1) / num_gpus * _FP32 * params
    if stage == 3:
        count, formula = 3 * accumulation, "3 k (n-1)/n x 4 P: two gathers, one scatter per batch"
    elif stage == 2:
        count, formula = accumulation + 1, "(k+1) (n-1)/n x 4 P: a scatter per batch, one gather"
    else:
        count, formula = 2, "2 (n-1)/n x 4 P: one ring all-reduce"
    sent = count * share
    return Traffic(sent, sent / (link.gb_per_s * 1e9), link, formula)
