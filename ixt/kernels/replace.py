"""Exchanging layers of a built model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


def replace(
    model: nn.Module, fits: Callable[[nn.Module], bool], make: Callable[[Any], nn.Module]
) -> int:
    """Replace layers of a model in place and return how many.

    Args:
        model: its own layers are looked at, not the model itself.
        fits: whether to replace a layer.
        make: gives the new layer from the old one.
    """
    found = [
        (parent, name, layer)
        for parent in model.modules()
        for name, layer in parent.named_children()
        if fits(layer)
    ]
    for parent, name, layer in found:
        setattr(parent, name, make(layer))
    return len(found)
