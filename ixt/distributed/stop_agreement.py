"""All processes of a run stop after the same update, whichever of them was asked to.

A signal reaches some processes earlier than others, or only one. After each update every process
starts an asynchronous reduction of its own signal over a side group of CPU sockets, and reads the
one of the update before, which has arrived by then: all read the same number in the same place, and
the device is never waited for. Where processes received different signals, the earliest one counts.
"""

from __future__ import annotations

import math
import os
import signal
import threading
from typing import Protocol, Self

import torch
import torch.distributed as dist

from ixt.distributed.group import world_size
from ixt.distributed.launch import rank_file, worker
from ixt.distributed.signals import Received, StopRequest
from ixt.distributed.timing import REAL, Timing
from ixt.errors import PeerLost

# Agents, Slurm and Kubernetes kill 30 s after SIGTERM; the rest is for saving.
_PATIENCE_S = 20.0
_TICK_S = 0.5
_URGENT = (signal.SIGTERM, signal.SIGHUP)  # a kill follows
_NO_VOTE = 2**63 - 1


class Exchange(Protocol):
    """Finds the smallest number of all processes, in the background."""

    def start(self, number: int) -> None:
        """Give this process's number."""

    def result(self) -> int:
        """Wait for the others' numbers; the smallest one.

        Raises:
            PeerLost: another process is gone.
        """


class StopAgreement:
    """Asked once per update by every process, within a `with` block."""

    def __init__(
        self,
        stop: StopRequest,
        patience_s: float = _PATIENCE_S,
        exchange: Exchange | None = None,
        timing: Timing = REAL,
    ) -> None:
        """Take part.

        After a SIGTERM the others may take `patience_s` to finish their update, before this process
        leaves without having saved. The exchange between several processes is over gloo, if not
        given.
        """
        self._stop, self._exchange, self._timing = stop, exchange, timing
        self._patience_s = patience_s
        self._under_way = False
        self._guard: Guard | None = None

    def __enter__(self) -> Self:
        if self._exchange is None and world_size() > 1:
            self._exchange = _OverGloo()
        if self._exchange is not None:
            self._guard = Guard(self._stop.received, self._patience_s, self._timing)
            self._stop.call_with_each(self._guard.receive)
            for number in self._stop.received.numbers:
                self._guard.receive(number)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.over()
        if self._under_way and kind is None:
            self._agreed()

    def over(self) -> None:
        """All updates are done: from here on processes may end, and a stop changes nothing."""
        if self._guard is not None:
            self._guard.close()

    def reached(self) -> int:
        """The signal to stop for after this update, the same on every process; 0 to continue.

        Raises:
            PeerLost: another process is gone.
        """
        if self._exchange is None:
            return self._stop.signum
        agreed = self._agreed() if self._under_way else 0
        if agreed:
            self.over()
            return agreed
        self._exchange.start(vote(self._stop.received))
        self._under_way = True
        return 0

    def _agreed(self) -> int:
        """Finish the reduction under way."""
        assert self._exchange is not None
        number = self._exchange.result()
        self._under_way = False
        return signal_of(number)


def vote(received: Received) -> int:
    """When a process was asked to stop, in milliseconds, and by which signal, in one number."""
    if not received.first:
        return _NO_VOTE
    return int(received.first_s * 1000) * 256 + received.first


def signal_of(number: int) -> int:
    """The signal in the earliest vote; 0 if there was none."""
    return 0 if number == _NO_VOTE else number % 256


class _OverGloo:
    """An exchange over a group of CPU sockets."""

    def __init__(self) -> None:
        group = dist.new_group(backend="gloo")
        assert isinstance(group, dist.ProcessGroup)  # every rank is in it
        self._group = group
        self._number = torch.zeros(1, dtype=torch.int64)
        self._work: dist.Work | None = None

    def start(self, number: int) -> None:
        self._number.fill_(number)
        self._work = dist.all_reduce(
            self._number, op=dist.ReduceOp.MIN, group=self._group, async_op=True
        )

    def result(self) -> int:
        assert self._work is not None
        try:
            self._work.wait()
        except RuntimeError as error:
            raise PeerLost(str(error)) from error
        return int(self._number.item())


class Guard:
    """Ends the process where its main thread waits for processes that are gone."""

    def __init__(self, received: Received, patience_s: float, timing: Timing = REAL) -> None:
        """Watch from the first signal on, for `patience_s` from a SIGTERM on."""
        self._received, self._patience_s, self._timing = received, patience_s, timing
        self._deadline_s = math.inf
        self._asked, self._closed = threading.Event(), threading.Event()
        timing.start(self._watch, "stop guard")

    def close(self) -> None:
        """All processes have agreed, or the run is over; may be called twice."""
        self._closed.set()
        self._asked.set()

    def receive(self, number: int) -> None:
        """Take in one signal; called in a thread, while the main thread may be in a collective."""
        if self._closed.is_set():
            return
        if self._received.at_once:
            _leave(None)
        if number in _URGENT:
            self._deadline_s = min(self._deadline_s, self._timing.now() + self._patience_s)
        self._asked.set()

    def _watch(self) -> None:
        self._timing.wait(self._asked, None)
        while not self._closed.is_set():
            if rank_file.a_neighbour_died():
                _leave("another process is gone")
            if self._timing.now() > self._deadline_s:
                _leave(f"the update did not end within {self._patience_s:.0f} s of SIGTERM")
            self._timing.wait(self._closed, _TICK_S)


def _leave(reason: str | None) -> None:
    """End without having saved, with an exit status that no queue mistakes for a finished save."""
    if reason is None:
        os._exit(128 + signal.SIGINT)
    worker.exit_now(f"{reason}; nothing was saved after the last checkpoint", True)
