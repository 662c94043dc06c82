"""A whole update as one CUDA graph: forward, backward with DDP's exchange, clipping, AdamW, EMA.

The first updates run as always, on the stream that is recorded later, as DDP needs it; then one is
recorded, and from there on every update copies its batch into place and replays. What an update
takes from the host goes through memory that the graph reads: images, targets, learning rates. The
random draws follow the seed set before each replay, as without a graph.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ixt.errors import EngineError
from ixt.recipe import Engine

Update = Callable[[Tensor, Tensor], Tensor]
"""Trains on images and targets and gives the loss: everything that an update does on the device."""

# DDP measures and rebuilds its buckets during the first ten (torch's notes on CUDA graphs: 11).
WARM_UP = 11


def check(engine: Engine, cuda: bool, processes: int) -> None:
    """Refuse a graph that cannot be recorded here.

    Args:
        engine: the recipe's section.
        cuda: whether training runs on CUDA devices.
        processes: how many train together.

    Raises:
        EngineError: there is no CUDA device, or an update has several micro-batches.
    """
    if not engine.cuda_graph:
        return
    if not cuda:
        raise EngineError(
            "engine.cuda_graph: needs a CUDA device, and there is none here; set it to false"
        )
    accumulation = engine.micro_batches // processes
    if accumulation > 1:
        raise EngineError(
            f"engine.cuda_graph: an update of {accumulation} micro-batches per process is more "
            "than one graph; raise engine.micro_batch_size, or set it to false"
        )
    # Its watchdog asks for events while a graph is recorded; ixt's own watch looks for hangs.
    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")


def graph_stream(engine: Engine, device: torch.device) -> torch.cuda.Stream | None:
    """A stream to wrap the model on and to record its updates; None where that is not wanted."""
    if not engine.cuda_graph:
        return None
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


class StepGraph:
    """An update that is recorded once and replayed; called like the update itself."""

    def __init__(
        self,
        update: Update,
        optimizer: torch.optim.Optimizer,
        stream: torch.cuda.Stream,
        warm_up: int = WARM_UP,
    ) -> None:
        """Record nothing yet.

        Args:
            update: to be recorded; it must not wait for the device.
            optimizer: capturable; its learning rates may change between updates.
            stream: where the model was wrapped.
            warm_up: updates that run without a graph.
        """
        self._update, self._optimizer, self._stream = update, optimizer, stream
        self.warm_up = self._left = warm_up
        """Updates before the one that is recorded."""
        self._rates: list[Tensor] = []
        self._batch: tuple[Tensor, ...] = ()
        self._replay: Callable[[], Tensor] | None = None

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        """Run one update and return its loss, 0-d, on the device.

        Raises:
            ValueError: the batch has another size, type or order than the recorded one.
        """
        if self._left > 0:
            self._left -= 1
            return self._warm_up(images, targets)
        if self._replay is None:
            self._batch = (images.clone(), targets.clone())
            with self._rates_on_device():
                self._replay = record(lambda: self._update(*self._batch), self._stream)
        for place, given in zip(self._batch, (images, targets), strict=True):
            if (given.shape, given.dtype) != (place.shape, place.dtype):
                raise ValueError(
                    f"a batch of {tuple(given.shape)} {given.dtype}; "
                    f"recorded was {tuple(place.shape)} {place.dtype}"
                )
            place.copy_(given)
        self._fill_rates()
        return self._replay().clone()

    def _warm_up(self, images: Tensor, targets: Tensor) -> Tensor:
        device = torch.cuda.current_stream()
        self._stream.wait_stream(device)
        with torch.cuda.stream(self._stream), self._rates_on_device():
            loss = self._update(images, targets)
        device.wait_stream(self._stream)
        # Their memory must not be given away while another stream reads it.
        images.record_stream(self._stream)
        targets.record_stream(self._stream)
        loss.record_stream(device)
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


def record(work: Callable[[], Tensor], stream: torch.cuda.Stream) -> Callable[[], Tensor]:
    """Record work as a graph, without running it.

    Args:
        work: what to record.
        stream: where.

    Returns:
        Runs it, and gives its result in the memory that every run writes to.

    Raises:
        EngineError: it does something that a graph cannot hold.
        OutOfMemoryError: the device is full.
    """
    graph = torch.cuda.CUDAGraph()
    try:
        # Other threads, of NCCL's watchdog and of the loader, may call CUDA meanwhile.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            result = work()
    except torch.OutOfMemoryError:
        raise  # a smaller micro-batch mends it
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise EngineError(
            f"engine.cuda_graph: this update cannot be recorded: {reason}; set it to false"
        ) from error

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay
