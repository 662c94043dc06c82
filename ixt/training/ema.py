"""Exponential moving average of a model's weights, in fp32, without communication.

Every process averages what it holds: its own copy, which agrees with the others because the weights
do, or its slice under ZeRO-3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ixt.distributed.engine.shards import parts


class Ema:
    """Average of parameters and floating-point buffers; starts as a copy of the model.

    Source: timm's ModelEmaV2 (the paper's), which averages batch-norm statistics too.
    """

    def __init__(self, model: nn.Module, on_swap: Callable[[], None] = lambda: None) -> None:
        """Start the average.

        `on_swap` is called before weights are exchanged: `engine.drop_gathered`, for ZeRO-3.
        """
        self._on_swap = on_swap
        self._sources: dict[str, Tensor] = parts(model)
        self._sources |= {
            name: buffer for name, buffer in model.named_buffers() if buffer.is_floating_point()
        }
        self.tensors = {
            name: source.detach().clone().float() for name, source in self._sources.items()
        }

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """Move each average by (1 - decay) of its distance to the model's present value."""
        sources = [source.detach().float() for source in self._sources.values()]
        torch._foreach_lerp_(list(self.tensors.values()), sources, 1.0 - decay)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Put the averages into the model for the duration of a `with` block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        self._on_swap()
        for name, source in self._sources.items():
            kept = source.detach().clone()
            source.data.copy_(self.tensors[name])
            self.tensors[name].copy_(kept)
