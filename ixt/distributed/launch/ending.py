"""How a launcher ends its processes: it asks them, and leaves only after the last one.

What is decided here needs no torch; `supervisor.py` does it to real processes.
"""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from ixt.distributed.launch.rank_file import RankReport, moment
from ixt.distributed.signals import Received
from ixt.distributed.timing import REAL, Timing

_TICK_S = 0.05
_LOOK_S = 0.1
_AFTER_A_FAILURE_S = 30.0  # those that are left have nothing to save
_SAVING_S = 600.0  # longer than any checkpoint takes to write; whoever is impatient kills sooner
_AFTER_A_KILL_S = 30.0  # the kernel cannot end a process that waits for a device


class Processes(Protocol):
    """The processes of a machine, by local rank."""

    def exit_codes(self) -> Mapping[int, int | None]:
        """How each has ended, negative by a signal; None while it runs."""

    def send(self, local_rank: int, number: int) -> None:
        """Send a signal to one that may have ended."""


def end_all(
    processes: Processes, received: Received, signum: int, timing: Timing = REAL
) -> list[int]:
    """Ask all processes to end, and wait for the last one.

    Signals that arrive meanwhile are passed on, each number once. A second Ctrl-C kills; so does
    time: a short one after a failure, a long one where a signal asked to stop and all save.

    Some processes may have ended; other threads add to `received`, the launcher's signals.

    Returns:
        Those that were killed.
    """
    sent: list[int] = []
    killed: list[int] = []
    deadline_s, give_up_s = timing.now() + _SAVING_S, math.inf
    while running := _running(processes):
        for number in [signum, *received.numbers]:
            if number not in sent:
                sent.append(number)
                _tell(processes, running, number)
        if not received.first or _failed(processes):
            deadline_s = min(deadline_s, timing.now() + _AFTER_A_FAILURE_S)
        if not killed and (received.at_once or timing.now() > deadline_s):
            killed = running
            give_up_s = timing.now() + _AFTER_A_KILL_S
            for rank in running:
                processes.send(rank, signal.SIGKILL)
        if timing.now() > give_up_s:
            break
        timing.sleep(_TICK_S)
    return killed


class Stopped(Exception):
    """A signal asked the launcher to stop; none of its processes runs any more, or none will."""


class Oversight:
    """What a launcher decides about its processes, whoever starts them."""

    def __init__(self, processes: Processes, received: Received, timing: Timing = REAL) -> None:
        self.killed: list[int] = []
        """Local ranks that did not end when they were asked to."""
        self._processes, self._received, self._timing = processes, received, timing
        self._turn = threading.Lock()
        self._idle, self._abandoned = True, False

    def abandon(self) -> bool:
        """Never start processes again; False if some may be running now, so that one must wait."""
        with self._turn:
            self._abandoned = self._abandoned or self._idle
            return self._abandoned

    def enter(self, idle: bool) -> None:
        """Note whether processes may run from here on.

        Raises:
            Stopped: they must not be started.
        """
        with self._turn:
            self._idle = idle
            if self._abandoned or self._received.first:
                raise Stopped

    def look(self) -> None:
        """End all if one has failed: torch would wait for a stopped one without waking it.

        Raises:
            Stopped: a signal asks to end them.
        """
        if self._received.first:
            raise Stopped
        if any(self._processes.exit_codes().values()):
            self.end(signal.SIGTERM)

    def end(self, signum: int) -> None:
        """Ask all to end, by the first signal where there is one, and wait for the last one."""
        first = self._received.first or signum
        self.killed += end_all(self._processes, self._received, first, self._timing)

    def wait(self, outcome: threading.Event) -> None:
        """Wait in the main thread for what another thread does with the processes.

        Raises:
            Stopped: a signal came while no process ran; that thread may wait for long.
        """
        while not self._timing.wait(outcome, _LOOK_S):
            if self._received.first and self.abandon():
                raise Stopped


def _running(processes: Processes) -> list[int]:
    return [rank for rank, code in processes.exit_codes().items() if code is None]


def _failed(processes: Processes) -> bool:
    """Whether one has ended otherwise than after a save or at the end of its work."""
    return any(code and code < 128 for code in processes.exit_codes().values())


def _tell(processes: Processes, ranks: list[int], number: int) -> None:
    for rank in ranks:
        processes.send(rank, number)
        processes.send(rank, signal.SIGCONT)  # a stopped one would receive nothing


@dataclass(frozen=True)
class Left:
    """What a process left when a signal stopped all of them."""

    exit_code: int | None
    """None where even a kill did not end it."""
    report: RankReport | None
    step: int | None
    """Updates it had done; None before the first."""
    killed: bool = False
    """Whether the launcher had to kill it."""


def stopped_status(signum: int, left: list[Left]) -> int:
    """Exit status of a launcher that a signal stopped; 0 where all work was done already."""
    done = all(process.exit_code == 0 for process in left)
    return 0 if done and left else 128 + signum


def stopped_message(signum: int, at_once: bool, left: list[Left]) -> str:
    """What to print when a signal has stopped all processes; the same line once."""
    reports = [process.report for process in left if process.report is not None]
    causes = [report for report in reports if not report.because_of_another]
    lines = {report.message for report in causes or reports}
    step = moment(max((process.step for process in left if process.step is not None), default=None))
    if any(process.killed for process in left):
        why = "at the second Ctrl-C" if at_once else "because some processes did not end"
        lines.add(f"killed {why}, {step}; nothing was saved after the last checkpoint")
    if not lines and stopped_status(signum, left):
        name = signal.Signals(signum).name
        lines.add(f"stopped by {name} {step}; nothing was saved after the last checkpoint")
    return "\n".join(sorted(lines))
