"""The images per second that a device allows a model, and measured rates against them."""

from __future__ import annotations

from dataclasses import dataclass

from ixt.bench.roofline.devices import ELEMENT_BYTES, Device, Precision
from ixt.models.cost import Costs, Mode


@dataclass(frozen=True)
class Limits:
    """Upper bounds of the images per second of one device."""

    compute_images_per_s: float
    """With arithmetic alone: dense operations at the precision's peak, depthwise at fp32's."""
    memory_images_per_s: float
    """With nothing but memory traffic: the memory floor."""
    images_per_s: float
    """With each operation taking the longer of its two times: the tight bound."""

    @property
    def bound(self) -> str:
        """What binds the model as a whole: `memory` or `compute`."""
        return "memory" if self.memory_images_per_s < self.compute_images_per_s else "compute"


def limits(
    costs: Costs, device: Device, precision: Precision, batch: int, mode: Mode = "train"
) -> Limits:
    """The roofline of a model on a device.

    Args:
        costs: of `model_costs`.
        device: its published peaks.
        precision: type of activations and products; weights of the optimizer are fp32 always.
        batch: images per forward pass of one device; weights are moved once for all of them.
        mode: train (forward, backward, optimizer, EMA) or infer (forward).

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
