"""What watches a run while it trains, without changing its numbers: the moments of the loop."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from typing_extensions import override

from ixt.pipeline.loader import Batch


class Observer:
    """One watcher; it overrides the moments that it cares for."""

    def epoch_begins(self) -> None:
        """The first update of an epoch, or of what is left of it, comes next."""

    def batch_wanted(self) -> None:
        """The loop asks for the next micro-batch, and may wait for it."""

    def batch_ready(self, step: int, batch: Batch) -> None:
        """A micro-batch is there and will be computed.

        `step` counts the updates before the one that it belongs to.
        """

    def update_done(self, step: int, loss: Tensor) -> None:
        """An update is done.

        `step` counts this update, too. `loss` is the mean over this process's part of it, 0-d, on
        the device: reading it here would make the host wait for the device.
        """

    def rows_due(self, step: int) -> None:
        """Now is the time to read the device and to write rows; every process is at this point."""


class Observers(Observer):
    """Several watchers as one; each moment reaches them in the order given."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    @override
    def epoch_begins(self) -> None:
        for observer in self._observers:
            observer.epoch_begins()

    @override
    def batch_wanted(self) -> None:
        for observer in self._observers:
            observer.batch_wanted()

    @override
    def batch_ready(self, step: int, batch: Batch) -> None:
        for observer in self._observers:
            observer.batch_ready(step, batch)

    @override
    def update_done(self, step: int, loss: Tensor) -> None:
        for observer in self._observers:
            observer.update_done(step, loss)

    @override
    def rows_due(self, step: int) -> None:
        for observer in self._observers:
            observer.rows_due(step)


class AfterUpdate(Observer):
    """Calls functions after every update."""

    def __init__(self, *functions: Callable[[], object]) -> None:
        self._functions = functions

    @override
    def update_done(self, step: int, loss: Tensor) -> None:
        for function in self._functions:
            function()
