"""One line about the rank that ended a run, from what all of them left."""

from __future__ import annotations

import signal
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ixt.distributed.launch import rank_file
from ixt.distributed.launch.rank_file import RankReport
from ixt.distributed.launch.worker import describe

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

_HINTS = {
    signal.SIGKILL: "the kernel does so when memory runs out",
    signal.SIGBUS: "shared memory (/dev/shm) may be full",
    signal.SIGSEGV: "a crash in native code",
}


@dataclass(frozen=True)
class Verdict:
    """What ended a run on this machine."""

    status: int
    """Exit status for the whole; 2 for what the user can fix, 128 + signal where one asked."""
    message: str
    trace: str = ""


def judge(folder: Path, failures: Mapping[int, ProcessFailure]) -> Verdict:
    """Find the cause among all ranks that failed at about the same time.

    `folder` is where the ranks left their files; at least one failed.
    """
    reports = {
        rank: rank_file.report_of(folder, failure.local_rank, failure.pid)
        for rank, failure in failures.items()
    }
    steps = {
        rank: rank_file.step_of(folder, failure.local_rank, failure.pid)
        for rank, failure in failures.items()
    }
    return find_cause(reports, steps, {rank: one.exitcode for rank, one in failures.items()})


def find_cause(
    reports: Mapping[int, RankReport | None],
    steps: Mapping[int, int | None],
    exit_codes: Mapping[int, int],
) -> Verdict:
    """The cause among ranks that failed, each with its report, its last step and its exit code."""
    own = {
        rank: report for rank, report in reports.items() if report and not report.because_of_another
    }
    plain = [report for report in own.values() if not report.trace]
    if plain:  # mistakes of the user and stops on request, the same on many ranks
        messages = sorted({report.message for report in plain})
        return Verdict(max(report.status for report in plain), "\n".join(messages))
    silent = [rank for rank, report in reports.items() if report is None]
    # SIGTERM is what the launcher sends to the others.
    first = [rank for rank in silent if exit_codes[rank] != -signal.SIGTERM]
    rank = min([*own] or first or silent or exit_codes)
    report, code = reports[rank], exit_codes[rank]
    reason = report.message if report else _reason_of(code)
    status = code if code > 0 else 128 - code
    line = describe(socket.gethostname(), rank, steps[rank], reason)
    return Verdict(status, line, report.trace if report else "")


def _reason_of(exit_code: int) -> str:
    if exit_code >= 0:
        return f"ended with status {exit_code} and without a report"
    number = signal.Signals(-exit_code)
    hint = f" ({_HINTS[number]})" if number in _HINTS else ""
    return f"killed by {number.name}{hint}"
