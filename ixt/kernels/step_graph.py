"""A whole update as CUDA graphs: forward, backward with DDP's exchange, clipping, AdamW, EMA.

The first updates run as always, on the stream that is recorded later, as DDP needs it; then one is
recorded, and from there on every micro-batch is copied into place and replayed. What an update
takes from the host goes through memory that the graph reads: images, targets, learning rates. The
random draws follow the seed set before each replay, as without a graph. So each micro-batch of an
update is a replay of its own, of one of two graphs: that of the last one, with DDP's exchange and
all that ends an update, or that of any one before it. Both share their memory, as one runs after
the other; what passes between them, the gradients, lies outside and stays where it is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ixt.errors import EngineError
from ixt.models.out_of_memory import memory_error
from ixt.recipe import Engine

Update = Callable[[int, Tensor, Tensor], Tensor]
"""Trains on the micro-batch at a place of its update (from 0), given its images and targets, and
gives the loss: everything that is to be done on the device. At the last place the update ends."""

# DDP measures and rebuilds its buckets during the first ten (torch's notes on CUDA graphs: 11).
WARM_UP = 11


def check_updates(engine: Engine, cuda: bool) -> None:
    """Refuse a graph that cannot be recorded here, and make ready for one that can.

    Call it before any process group exists: NCCL's reads its settings when it is made.

    Raises:
        EngineError: there is no CUDA device.
    """
    if not engine.cuda_graph:
        return
    if not cuda:
        raise EngineError(
            "engine.cuda_graph: needs a CUDA device, and there is none here; set it to false"
        )
    # Its watchdog asks for events while a graph is recorded; ixt's own watch looks for hangs.
    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")


def update_stream(engine: Engine, device: torch.device) -> torch.cuda.Stream | None:
    """A stream to wrap the model on and to record its updates; None where that is not wanted."""
    if not engine.cuda_graph:
        return None
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Recorded:
    """A part of an update that was recorded."""

    replay: Callable[[], Tensor]
    """Runs it, and gives its result in the memory that every run writes to."""
    pool: Any
    """Where its memory comes from; graphs that run one after another may share it."""


class StepGraph:
    """An update that is recorded once and replayed; called like the update itself."""

    def __init__(
        self,
        update: Update,
        optimizer: torch.optim.Optimizer,
        stream: torch.cuda.Stream,
        micro_batches: int = 1,
        warm_up: int = WARM_UP,
    ) -> None:
        """Record nothing yet.

        The update must not wait for the device, and treat all micro-batches but the last one alike.
        The optimizer is capturable; its learning rates may change between updates. The model was
        wrapped on `stream`; `micro_batches` are those of this process in an update, `warm_up`
        counts updates that run without a graph.
        """
        if micro_batches > 1 and warm_up < 1:
            raise ValueError("gradients get their place in an update without a graph")
        self._update, self._optimizer, self._stream = update, optimizer, stream
        self._last = micro_batches - 1
        self.warm_up = self._left = warm_up
        """Updates before the one that is recorded."""
        self._rates: list[Tensor] = []
        self._batch: tuple[Tensor, ...] = ()
        self._recorded: dict[bool, Recorded] = {}

    def __call__(self, place: int, images: Tensor, targets: Tensor) -> Tensor:
        """Run one micro-batch of an update and return its loss, 0-d, on the device.

        Raises:
            ValueError: the batch has another size, type or order than the recorded one.
        """
        last = place == self._last
        if self._left > 0:
            self._left -= last
            return self._warm_up(place, images, targets)
        self._put(images, targets)
        if last not in self._recorded:
            pool = next((other.pool for other in self._recorded.values()), None)
            with self._rates_on_device():
                self._recorded[last] = record(
                    lambda: self._update(place, *self._batch), self._stream, pool
                )
        if last:
            self._fill_rates()
        return self._recorded[last].replay().clone()

    def _put(self, images: Tensor, targets: Tensor) -> None:
        """Copy a micro-batch to where the graphs read it."""
        if not self._batch:
            self._batch = (images.clone(), targets.clone())
            return
        for own, given in zip(self._batch, (images, targets), strict=True):
            if (given.shape, given.dtype) != (own.shape, own.dtype):
                raise ValueError(
                    f"a batch of {tuple(given.shape)} {given.dtype}; "
                    f"recorded was {tuple(own.shape)} {own.dtype}"
                )
            own.copy_(given)

    def _warm_up(self, place: int, images: Tensor, targets: Tensor) -> Tensor:
        # Each stream waits for the other, so memory of the one may be used and freed on the other.
        consumer = torch.cuda.current_stream()
        self._stream.wait_stream(consumer)
        with torch.cuda.stream(self._stream), self._rates_on_device():
            loss = self._update(place, images, targets)
        consumer.wait_stream(self._stream)
        return loss

    @contextmanager
    def _rates_on_device(self) -> Iterator[None]:
        """Let the optimizer read learning rates from the device; checkpoints have numbers."""
        groups: list[dict[str, Any]] = self._optimizer.param_groups
        self._fill_rates()
        numbers = [group["lr"] for group in groups]
        for group, rate in zip(groups, self._rates, strict=True):
            group["lr"] = rate
        try:
            yield
        finally:
            for group, number in zip(groups, numbers, strict=True):
                group["lr"] = number

    def _fill_rates(self) -> None:
        groups: list[dict[str, Any]] = self._optimizer.param_groups
        if not self._rates:
            self._rates = [torch.empty((), device=group["params"][0].device) for group in groups]
        for group, rate in zip(groups, self._rates, strict=True):
            rate.fill_(group["lr"])


def record(work: Callable[[], Tensor], stream: torch.cuda.Stream, pool: Any = None) -> Recorded:
    """Record work as a graph, without running it.

    It may use the memory of another graph's `pool`.

    Raises:
        EngineError: it does something that a graph cannot hold.
        OutOfMemoryError: the device is full.
    """
    graph = torch.cuda.CUDAGraph()
    try:
        # Other threads, of NCCL's watchdog and of the loader, may call CUDA meanwhile.
        with torch.cuda.graph(graph, pool, stream, capture_error_mode="thread_local"):
            result = work()
    except RuntimeError as error:
        # The end of the recording may fail, too, and hide it; a smaller micro-batch fixes it.
        full = memory_error(error)
        if full is not None:
            raise full from None
        reason = str(error).strip().splitlines()[0]
        raise EngineError(
            f"engine.cuda_graph: this update cannot be recorded: {reason}; set it to false"
        ) from error

    def replay() -> Tensor:
        graph.replay()
        return result

    return Recorded(replay, graph.pool())
