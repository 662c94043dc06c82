"""Torch's elastic agent, with our way to stop: it runs in a thread and is asked, not interrupted.

Torch's own handlers raise in the middle of whatever the agent does; a second signal would cut off
its wait for the processes. Importing this module imports torch.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from subprocess import Popen

from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.api import SubprocessContext
from typing_extensions import override

from ixt.distributed.launch import rank_file
from ixt.distributed.launch.ending import Left, end_all
from ixt.distributed.signals import Received

# A failed process has reported what is wrong; the agent's report of it says nothing more.
for _name in ("multiprocessing.api", "agent.server.api"):
    logging.getLogger(f"torch.distributed.elastic.{_name}").setLevel(logging.CRITICAL)


class Supervisor(LocalElasticAgent):
    """Starts the processes of this machine, again where that is allowed, and ends them."""

    def __init__(self, spec: WorkerSpec, received: Received) -> None:
        """Start nothing yet.

        Args:
            spec: what to run, and where the machines meet.
            received: the signals of this process.
        """
        super().__init__(spec, DefaultLogsSpecs())
        self.killed: list[int] = []
        """Local ranks that did not end when they were asked to."""
        self._received = received
        self._turn = threading.Lock()
        self._idle = True
        self._abandoned = False

    def run_once(self) -> RunResult:
        """Run to the end, and tell the other machines about it unless a signal asked to stop."""
        result: RunResult = self.run()
        self._rdzv_handler.shutdown()
        return result

    def abandon(self) -> bool:
        """Never start processes again; False if some may be running now, so that one must wait."""
        with self._turn:
            self._abandoned = self._abandoned or self._idle
            return self._abandoned

    @override
    def _rendezvous(self, worker_group: WorkerGroup) -> None:
        self._set_idle(True)
        super()._rendezvous(worker_group)
        self._set_idle(False)

    @override
    def _exit_barrier(self) -> None:
        self._set_idle(True)
        super()._exit_barrier()  # type: ignore[no-untyped-call]

    @override
    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        self._raise_if_asked()
        codes = self.exit_codes()
        if any(codes.values()):  # torch would wait for a stopped process without waking it
            self.killed = end_all(self, self._received, signal.SIGTERM)
        result: RunResult = super()._monitor_workers(worker_group)
        return result

    @override
    def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM, timeout: int = 30) -> None:
        self.killed += end_all(self, self._received, death_sig)
        super()._shutdown(death_sig, timeout)

    def exit_codes(self) -> Mapping[int, int | None]:
        """How each process has ended; None while it runs."""
        return {rank: process.poll() for rank, process in self._processes().items()}

    def send(self, local_rank: int, number: int) -> None:
        """Send a signal to a process and its children."""
        with suppress(ProcessLookupError):
            os.killpg(self._processes()[local_rank].pid, number)

    def left(self, folder: Path) -> list[Left]:
        """What each process left in a folder of reports."""
        return [
            Left(
                process.poll(),
                rank_file.report_of(folder, rank, process.pid),
                rank_file.step_of(folder, rank, process.pid),
                rank in self.killed,
            )
            for rank, process in self._processes().items()
        ]

    def _processes(self) -> dict[int, Popen[bytes]]:
        """By local rank; none before the first start."""
        if not isinstance(self._pcontext, SubprocessContext):
            return {}
        return {rank: one.proc for rank, one in self._pcontext.subprocess_handlers.items()}

    def _set_idle(self, idle: bool) -> None:
        with self._turn:
            self._idle = idle
            if self._abandoned:
                raise stopped(self._received)
        self._raise_if_asked()

    def _raise_if_asked(self) -> None:
        if self._received.first:
            raise stopped(self._received)


def stopped(received: Received) -> SignalException:
    """The error that ends the run for the first signal."""
    number = signal.Signals(received.first)
    return SignalException(f"received {number.name}", number)
