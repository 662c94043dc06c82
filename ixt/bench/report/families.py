"""Families of models: their colours in all charts, and short names for labels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ixt.bench.report.figures import SERIES
from ixt.bench.report.peers import architecture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FAMILIES = {"inception": "InceptionNeXt", "convnext": "ConvNeXt", "resnet": "ResNet", "": "other"}
_SHORT = {
    "inceptionnext_atto": "InceptionNeXt-A",
    "inceptionnext_tiny": "InceptionNeXt-T",
    "inceptionnext_small": "InceptionNeXt-S",
    "inceptionnext_base": "InceptionNeXt-B",
    "inceptionnext_base_384": "InceptionNeXt-B 384 px",
    "convnext_tiny": "ConvNeXt-T",
    "convnext_tiny_k5": "ConvNeXt-T k5",
    "convnext_tiny_k3": "ConvNeXt-T k3",
    "convnext_tiny_k3_par1_2": "k3, 1/2",
    "convnext_tiny_k3_par3_8": "k3, 3/8",
    "convnext_tiny_k3_par1_4": "k3, 1/4",
    "convnext_tiny_k3_par1_8": "k3, 1/8",
    "convnext_tiny_k3_par1_16": "k3, 1/16",
    "resnet50": "ResNet-50",
}


def short_name(model: str) -> str:
    """The paper's way to write a name where it has one; the fractions are of channels convolved."""
    return _SHORT.get(model, architecture(model))


def colour_of(model: str) -> str:
    """The colour of a model's family."""
    return SERIES[_family(model)]


def explain_families(axes: Axes, models: Iterable[str]) -> None:
    """Legend entries for the families that are drawn."""
    drawn = {_family(model) for model in models}
    for number, name in enumerate(_FAMILIES.values()):
        if number in drawn:
            axes.scatter([], [], 50, color=SERIES[number], label=name)


def _family(model: str) -> int:
    name = architecture(model)
    return next(n for n, start in enumerate(_FAMILIES) if name.startswith(start))
