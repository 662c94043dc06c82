"""How many images per second a device takes, and whether a loader delivers them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from ixt.bench.data.rate import Rate
from ixt.bench.roofline.expected import assumed_device, expected_rates
from ixt.images.classes import IMAGENET_CLASSES
from ixt.recipe import Recipe


@dataclass(frozen=True)
class Demand:
    """What training on one device takes."""

    device: str
    images_per_s: float
    basis: str
    """What the number rests on."""


def find_demand(recipe: Recipe, device: str | None, bench: Path | None) -> Demand:
    """The training rate of a recipe's model on one device.

    `device` is for `assumed_device`. Without results of `ixt bench`, it is a share of the roofline.

    Raises:
        EngineError: the device is unknown, or the benchmark holds no such rate.
        ModelError: the model is unknown.
    """
    found = assumed_device(device, bench)
    num_classes = recipe.model.num_classes or IMAGENET_CLASSES
    rates = expected_rates(recipe, found, bench, num_classes)
    return Demand(found.name, rates.train, rates.basis)


def verdict(name: str, stages: dict[str, Rate], decoder: str, demand: Demand) -> str:
    """Whether the loader keeps up with one device, what binds it, and what would help."""
    together = stages["together"]
    wanted, given = demand.images_per_s, together.images_per_s
    facts = (
        f"this host delivers {given:,.0f} images/s ({name}), one {demand.device} could take "
        f"{wanted:,.0f}"
    )
    if given >= wanted:
        return f"device-bound: {facts}"
    # The stages that share the host's cores; the tensors' work is the GPU's where there is one.
    parts = ("read", "decode", "augment", "mix, normalise, erase")
    costs = {part: stages[part].cpu_ms_per_image for part in parts}
    costs["decode"] = max(costs["decode"] - costs["read"], 0.0)  # decoding reads, too
    slowest = max(costs, key=lambda part: costs[part])
    cores = math.ceil((wanted - given) * together.cpu_ms_per_image / 1000)
    advice = f"{cores} more core{'s' * (cores > 1)} with a thread each would close it"
    if torch.cuda.is_available() and decoder == "torch":
        advice += ", or data.decoder: dali"
    return f"{slowest}-bound: {facts}; {advice}"
