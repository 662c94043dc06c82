"""Which layer an operator belongs to, in the forward pass and in the gradients that follow."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import nn
from torch.nn.modules import module as hooks

Pass = Literal["forward", "backward", "update"]


class Place(NamedTuple):
    """Where in a step an operator belongs."""

    part: Pass
    """The pass; update is what neither pass of the model does."""
    layer: str
    """Class of the innermost layer, or what the update does."""


class Layers:
    """Follows a step from layer to layer.

    A node of the backward pass has the number that the autograd engine counts up with every node
    that a forward pass makes, so it belongs to the layer that was at work at that number.
    """

    def __init__(self) -> None:
        self._stack = [Place("update", "other")]
        self._since: list[tuple[int, Place]] = [(0, self._stack[0])]

    def place(self) -> Place:
        """The pass and the layer that are at work."""
        node: Any = torch._C._current_autograd_node()
        if node is None:
            return self._stack[-1]
        number = node._sequence_nr()
        if number > self._since[-1][0] + 2**32:  # the sum of a parameter's gradients has none
            return Place("backward", "sums of gradients")
        at = bisect_right(self._since, number, key=lambda since: since[0]) - 1
        found = self._since[at][1]
        return found if found.part == "update" else found._replace(part="backward")

    @contextmanager
    def step_of(self, what: str) -> Iterator[None]:
        """What is done within a `with` block outside the model belongs to a step of the update."""
        self._enter(Place("update", what))
        try:
            yield
        finally:
            self._leave()

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Within a `with` block notice which modules are at work."""
        before = hooks.register_module_forward_pre_hook(
            lambda module, _: self._enter(Place("forward", layer_class(module)))
        )
        after = hooks.register_module_forward_hook(lambda *_: self._leave())
        try:
            yield
        finally:
            before.remove()
            after.remove()

    def _enter(self, place: Place) -> None:
        self._stack.append(place)
        self._mark()

    def _leave(self) -> None:
        self._stack.pop()
        self._mark()

    def _mark(self) -> None:
        number = torch._C._autograd._get_sequence_nr()
        self._since.append((number, self._stack[-1]))


def layer_class(module: nn.Module) -> str:
    """The class of a layer; a depthwise convolution is one of its own."""
    name = type(module).__name__
    depthwise = isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels
    return f"{name} (depthwise)" if depthwise else name
