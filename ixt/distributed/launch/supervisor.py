"""Torch's elastic agent, with our way to stop: it runs in a thread and is asked, not interrupted.

Torch's own handlers raise in the middle of whatever the agent does; a second signal would cut off
its wait for the processes. Importing this module imports torch.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from subprocess import Popen

from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.api import SubprocessContext
from typing_extensions import override

from ixt.distributed.launch import rank_file
from ixt.distributed.launch.ending import Left, Oversight
from ixt.distributed.signals import Received

# A failed process has reported what is wrong; the agent's report of it says nothing more.
for _name in ("multiprocessing.api", "agent.server.api"):
    logging.getLogger(f"torch.distributed.elastic.{_name}").setLevel(logging.CRITICAL)


class Supervisor(LocalElasticAgent):
    """Starts the processes of this machine, again where that is allowed, and ends them."""

    def __init__(self, spec: WorkerSpec, received: Received) -> None:
        super().__init__(spec, DefaultLogsSpecs())
        self.oversight = Oversight(self, received)

    def run_once(self) -> RunResult:
        """Run to the end, and tell the other machines about it unless a signal asked to stop."""
        result: RunResult = self.run()
        self._rdzv_handler.shutdown()
        return result

    @override
    def _rendezvous(self, worker_group: WorkerGroup) -> None:
        self.oversight.enter(idle=True)
        super()._rendezvous(worker_group)
        self.oversight.enter(idle=False)

    @override
    def _exit_barrier(self) -> None:
        self.oversight.enter(idle=True)
        super()._exit_barrier()  # type: ignore[no-untyped-call]

    @override
    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        self.oversight.look()
        result: RunResult = super()._monitor_workers(worker_group)
        return result

    @override
    def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM, timeout: int = 30) -> None:
        self.oversight.end(death_sig)
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
                rank in self.oversight.killed,
            )
            for rank, process in self._processes().items()
        ]

    def _processes(self) -> dict[int, Popen[bytes]]:
        """The processes by local rank; none before the first start."""
        if not isinstance(self._pcontext, SubprocessContext):
            return {}
        return {rank: one.proc for rank, one in self._pcontext.subprocess_handlers.items()}
