"""A measured rate beside what the device could do: utilisation, and share of the roofline."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from ixt.bench.results import Cell
from ixt.errors import EngineError
from ixt.roofline import Costs, Precision, find_device, limits, mfu, model_costs

_TYPES: dict[str, Precision] = {
    "fp32": "fp32",
    "tf32": "tf32",
    "amp-bf16": "bf16",
    "bf16": "bf16",
    "amp-fp16": "fp16",
}


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
    precision = _TYPES[cell.precision]
    try:
        device = find_device(device_name)
        device.peak_flops(precision)
    except EngineError:
        if device_name.endswith((".yaml", ".yml")):
            raise
        return Shares()
    costs = _costs(cell.model, cell.image_size)
    bound = limits(costs, device, precision, cell.batch_size, cell.mode)
    return Shares(
        mfu=mfu(costs, device, precision, images_per_s, cell.mode),
        of_memory_floor=images_per_s / bound.memory_images_per_s,
        of_limit=images_per_s / bound.images_per_s,
    )


@cache
def _costs(model: str, image_size: int) -> Costs:
    return model_costs(model, image_size)
