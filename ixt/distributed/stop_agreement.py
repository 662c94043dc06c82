"""All processes of a run stop after the same update, whichever of them was asked to.

A signal reaches some processes earlier than others, or only one. After each update every process
starts an asynchronous reduction of its own signal over a side group of CPU sockets, and reads the
one of the update before, which has arrived by then: all read the same number in the same place, and
the device is never waited for.
"""

from __future__ import annotations

import math
import os
import signal
import time
from typing import Self

import torch
import torch.distributed as dist

from ixt.distributed.group import world_size
from ixt.distributed.launch import rank_file, worker
from ixt.distributed.signals import STOP_SIGNALS, SignalListener, StopRequest
from ixt.errors import PeerLost

# Agents, Slurm and Kubernetes kill 30 s after SIGTERM; the rest is for saving.
_PATIENCE_S = 20.0
_TICK_S = 0.5


class StopAgreement:
    """Asked once per update by every process, within a `with` block."""

    def __init__(self, stop: StopRequest, patience_s: float = _PATIENCE_S) -> None:
        """Take part.

        Args:
            stop: what this process was asked.
            patience_s: how long after a SIGTERM the others may take to finish their update, before
                this process leaves without having saved.
        """
        self._stop = stop
        self._patience_s = patience_s
        self._group: dist.ProcessGroup | None = None
        self._work: dist.Work | None = None
        self._flag = torch.zeros(1, dtype=torch.int32)
        self._guard: _Guard | None = None

    def __enter__(self) -> Self:
        if world_size() > 1:
            group = dist.new_group(backend="gloo")
            assert isinstance(group, dist.ProcessGroup)  # every rank is in it
            self._group = group
            self._guard = _Guard(self._patience_s)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._guard is not None:
            self._guard.close()
        if self._work is not None and kind is None:
            self._wait()

    def reached(self) -> int:
        """The signal to stop for after this update, the same on every process; 0 to continue.

        Raises:
            PeerLost: another process is gone.
        """
        if self._group is None:
            return self._stop.signum
        agreed = self._wait()
        if agreed:
            assert self._guard is not None
            self._guard.close()
            return agreed
        self._flag.fill_(self._stop.signum)
        self._work = dist.all_reduce(
            self._flag, op=dist.ReduceOp.MAX, group=self._group, async_op=True
        )
        return 0

    def _wait(self) -> int:
        """Finish the reduction under way; its result, 0 where there is none."""
        if self._work is None:
            return 0
        try:
            self._work.wait()
        except RuntimeError as error:
            raise PeerLost(str(error)) from error
        self._work = None
        return int(self._flag.item())


class _Guard:
    """Ends the process where its main thread waits for processes that are gone."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._deadline_s = math.inf
        self._asked, self._interrupts = False, 0
        self._listener = SignalListener(self._receive, self._look, _TICK_S)

    def close(self) -> None:
        """All processes have agreed, or the run is over; may be called twice."""
        self._listener.close()

    def _receive(self, number: int) -> None:
        self._asked = self._asked or number in STOP_SIGNALS
        self._interrupts += number == signal.SIGINT
        if self._interrupts > 1:
            os._exit(128 + signal.SIGINT)
        if number == signal.SIGTERM:
            self._deadline_s = min(self._deadline_s, time.monotonic() + self._patience_s)

    def _look(self) -> None:
        if self._asked and rank_file.a_neighbour_died():
            _give_up("another process is gone")
        if time.monotonic() > self._deadline_s:
            _give_up(f"the update did not end within {self._patience_s:.0f} s of SIGTERM")


def _give_up(reason: str) -> None:
    """End without having saved, with a status that no queue takes for a finished save."""
    worker.exit_now(f"{reason}; nothing was saved after the last checkpoint", True)
