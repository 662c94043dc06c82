"""Exponential moving average of a model's weights, in fp32, without communication.

Every process averages its own copy; the copies agree because the weights do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """Average of parameters and floating-point buffers; starts as a copy of the model.

    Source: timm's ModelEmaV2 (the paper's), which averages batch-norm statistics too.
    """

    def __init__(self, model: nn.Module) -> None:
        self._sources: dict[str, Tensor] = dict(model.named_parameters())
        self._sources |= {
            name: buffer for name, buffer in model.named_buffers() if buffer.is_floating_point()
        }
        self.tensors = {
            name: source.detach().clone().float() for name, source in self._sources.items()
        }

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """Move each average by (1 - decay) of the way to the model's present value."""
        sources = [source.detach().float() for source in self._sources.values()]
        torch._foreach_lerp_(list(self.tensors.values()), sources, 1.0 - decay)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Put the averages into the model for the time of a `with` block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, source in self._sources.items():
            kept = source.detach().clone()
            source.data.copy_(self.tensors[name])
            self.tensors[name].copy_(kept)
