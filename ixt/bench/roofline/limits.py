"""The images per second that a device allows a model, and measured rates against them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, cast

from ixt.bench.results import Ceilings, Cell
from ixt.bench.results import Precision as CellPrecision
from ixt.bench.roofline.devices import ELEMENT_BYTES, Device, Precision, find_device
from ixt.costs import Costs, Mode, kept_count
from ixt.errors import EngineError

ARITHMETIC: dict[str, Precision] = {
    "fp32": "fp32",
    "tf32": "tf32",
    "amp-bf16": "bf16",
    "bf16": "bf16",
    "amp-fp16": "fp16",
}
"""What products run in, by the name of a cell's precision."""


@dataclass(frozen=True)
class Limits:
    """Upper bounds of the images per second of one device."""

    compute_images_per_s: float
    """Limit by arithmetic alone: dense operations at the precision's peak, depthwise at fp32's."""
    memory_images_per_s: float
    """Limit by memory traffic alone: the memory floor."""
    images_per_s: float
    """Limit with each operation taking the longer of its two times: the tight bound."""

    @property
    def bound(self) -> str:
        """What binds the model as a whole: `memory` or `compute`."""
        return "memory" if self.memory_images_per_s < self.compute_images_per_s else "compute"


def limits(
    costs: Costs, device: Device, precision: Precision, batch: int, mode: Mode = "train"
) -> Limits:
    """The roofline of a model on a device.

    Activations and products are of `precision`; weights of the optimizer are fp32 always. `batch`
    is images per forward pass of one device: weights are moved once for all of them. Mode train is
    forward, backward, optimizer and EMA.

    Raises:
        EngineError: the device has no such precision.
    """
    peak, depthwise_peak = device.peak_flops(precision), device.peak_flops("fp32")
    bandwidth, element_bytes = device.bandwidth_bytes_per_s, ELEMENT_BYTES[precision]
    update_s = costs.update_bytes(mode, batch) / bandwidth
    compute_s, memory_s, tight_s = 0.0, update_s, update_s
    for op in costs.operations:
        repeats = op.passes(mode)
        flops_s = repeats * op.flops / (depthwise_peak if op.kind == "depthwise" else peak)
        bytes_s = repeats * op.moved_bytes(element_bytes, batch) / bandwidth
        compute_s += flops_s
        memory_s += bytes_s
        tight_s += max(flops_s, bytes_s)
    return Limits(1 / compute_s, 1 / memory_s, 1 / tight_s)


def mfu(
    costs: Costs,
    device: Device,
    precision: Precision,
    images_per_s: float,
    mode: Mode = "train",
) -> float:
    """Model FLOPs utilisation of a measured rate, as a fraction.

    A training step counts as three forward passes, recomputation not counted, over the dense peak
    of the precision, depthwise operations included.

    Source: Chowdhery et al. 2022, "PaLM", appendix B.

    Raises:
        EngineError: the device has no such precision.
    """
    forward_passes = 3 if mode == "train" else 1
    rate = forward_passes * costs.flops("infer") * images_per_s
    return rate / device.peak_flops(precision)


def shares(cell: Cell, device_name: str, images_per_s: float) -> dict[str, float]:
    """A rate as fractions of what its device allows, by the names of `Row`.

    There are none for a device whose peaks are not known.

    `device_name` is what the driver gives, a name of `known_devices`, or a YAML file.

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
        return {}
    costs = costs_of(cell.model, cell.image_size)
    bound = limits(costs, device, precision, cell.batch_size, cell.mode)
    return {
        "mfu": mfu(costs, device, precision, images_per_s, cell.mode),
        "of_memory_floor": images_per_s / bound.memory_images_per_s,
        "of_limit": images_per_s / bound.images_per_s,
    }


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
    """A model's FLOPs and traffic, kept from one command to the next.

    `image_size` is the side of the square image, in pixels.

    Raises:
        ModelError: the name is unknown, or the model cannot run without values.
    """

    def count() -> dict[str, Any]:
        from ixt.models.cost import model_costs

        return asdict(model_costs(model, image_size))

    return Costs.from_data(kept_count("costs", [model, image_size], count))
