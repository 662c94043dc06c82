"""A measured rate beside what the device could do: utilisation, and share of the roofline."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, cast

from ixt.bench.results import Ceilings, Cell
from ixt.bench.results import Precision as CellPrecision
from ixt.bench.roofline.devices import Device, Precision, find_device
from ixt.bench.roofline.limits import limits, mfu
from ixt.errors import EngineError
from ixt.models import Costs, model_costs

ARITHMETIC: dict[str, Precision] = {
    "fp32": "fp32",
    "tf32": "tf32",
    "amp-bf16": "bf16",
    "bf16": "bf16",
    "amp-fp16": "fp16",
}
"""What products run in, by the name of a cell's precision."""


@dataclass(frozen=True)
class Shares:
    """Fractions of what a device allows; None where its peaks are not known."""

    mfu: float | None = None
    """Model FLOPs utilisation: of the precision's dense peak."""
    of_memory_floor: float | None = None
    """Of the images per second that memory traffic alone allows."""
    of_limit: float | None = None
    """Of the tight bound, each operation taking the longer of its two times."""


def shares(cell: Cell, device_name: str, images_per_s: float) -> Shares:
    """Hold a rate against its device.

    Args:
        cell: what was measured.
        device_name: as the driver gives it, a name of `known_devices`, or a YAML file.
        images_per_s: the rate.

    Raises:
        EngineError: a YAML file was given, and it cannot be read.
    """
    precision = ARITHMETIC[cell.precision]
    try:
        device = find_device(device_name)
        device.peak_flops(precision)
    except EngineError:
        if device_name.endswith((".yaml", ".yml")):
            raise
        return Shares()
    costs = costs_of(cell.model, cell.image_size)
    bound = limits(costs, device, precision, cell.batch_size, cell.mode)
    return Shares(
        mfu=mfu(costs, device, precision, images_per_s, cell.mode),
        of_memory_floor=images_per_s / bound.memory_images_per_s,
        of_limit=images_per_s / bound.images_per_s,
    )


def measured_device(ceilings: Ceilings, precision: str) -> Device | None:
    """A device whose peaks are what a copy and a product in a cell's precision were seen to reach.

    None where that product was not measured.
    """
    tflops = ceilings.matmul_tflops.get(cast("CellPrecision", precision))
    if tflops is None:
        return None
    # Depthwise convolutions count at the fp32 peak.
    fp32 = ceilings.matmul_tflops.get("fp32", tflops)
    peaks: dict[str, Any] = {"fp32_tflops": fp32, f"{ARITHMETIC[precision]}_tflops": tflops}
    return Device(
        name="this device",
        **peaks,
        bandwidth_gb_per_s=ceilings.copy_gb_per_s,
        memory_gib=1.0,  # of no account here
    )


@cache
def costs_of(model: str, image_size: int) -> Costs:
    """A model's FLOPs and traffic; counted once per process, which takes a second."""
    return model_costs(model, image_size)
