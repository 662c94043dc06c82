"""One line about the rank that brought a run down, from what all of them left."""

from __future__ import annotations

import signal
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ixt.distributed.launch import rank_file
from ixt.distributed.launch.worker import describe

_HINTS = {
    signal.SIGKILL: "the kernel does so when memory runs out",
    signal.SIGBUS: "shared memory (/dev/shm) may be full",
    signal.SIGSEGV: "a crash in native code",
}


@dataclass(frozen=True)
class Failure:
    """A process that ended with another status than 0."""

    rank: int
    local_rank: int
    pid: int
    exit_code: int
    """Of the process; negative where a signal killed it."""


@dataclass(frozen=True)
class Verdict:
    """What ended a run on this machine."""

    status: int
    """Exit status for the whole; 2 for what the user can mend, 128 + signal where one asked."""
    message: str
    trace: str = ""


def judge(folder: Path, failures: Mapping[int, Failure]) -> Verdict:
    """Find the cause among all ranks that failed at about the same time.

    Args:
        folder: where the ranks left their files.
        failures: by rank; at least one.
    """
    left = {
        rank: rank_file.ending_of(folder, failure.local_rank, failure.pid)
        for rank, failure in failures.items()
    }
    own = {rank: end for rank, end in left.items() if end and not end.because_of_another}
    said = sorted({end.message for end in own.values() if not end.trace})
    if said:  # mistakes of the user and stops on request, the same on many ranks
        status = max(end.status for end in own.values() if not end.trace)
        return Verdict(status, "\n".join(said))
    killed = [rank for rank, failure in failures.items() if left[rank] is None]
    rank = min(own) if own else min(killed) if killed else min(failures)
    failure, ending = failures[rank], left[rank]
    reason = ending.message if ending else _of_a_silent_end(failure.exit_code)
    step = rank_file.step_of(folder, failure.local_rank, failure.pid)
    status = failure.exit_code if failure.exit_code > 0 else 128 - failure.exit_code
    line = describe(socket.gethostname(), rank, step, reason)
    return Verdict(status, line, ending.trace if ending else "")


def _of_a_silent_end(exit_code: int) -> str:
    if exit_code >= 0:
        return f"ended with status {exit_code} and no word"
    number = signal.Signals(-exit_code)
    hint = f" ({_HINTS[number]})" if number in _HINTS else ""
    return f"killed by {number.name}{hint}"
