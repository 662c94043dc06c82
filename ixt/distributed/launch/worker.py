"""The life of one process of a group: tied to its agent's, and ended without a wait for others."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import traceback
from typing import NoReturn

from ixt.distributed.launch import rank_file
from ixt.distributed.launch.addresses import use_interface_towards
from ixt.distributed.launch.environment import launched
from ixt.distributed.launch.rank_file import RankReport
from ixt.errors import PeerLost

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def begin() -> None:
    """Prepare a process that a launcher started, before it joins the group."""
    before = rank_file.begin()
    if before is not None:
        print(f"rank {os.environ['RANK']} starts again; {before}", file=sys.stderr)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        _die_with_the_agent()
    if "MASTER_PORT" in os.environ:
        host = os.environ.get("MASTER_ADDR", "localhost")
        several = os.environ["LOCAL_WORLD_SIZE"] != os.environ["WORLD_SIZE"]
        use_interface_towards(host, int(os.environ["MASTER_PORT"]), for_others=several)


def end(message: str, status: int, same_on_all: bool = False) -> NoReturn:
    """Report why this process ends, to its agent or else to people, and end it.

    `same_on_all`: all processes of the group report the same, so that one is enough.
    """
    left = rank_file.leave_report(RankReport(status, message))
    if not left and not (same_on_all and os.environ.get("RANK", "0") != "0"):
        print(message, file=sys.stderr)
    _exit(status)


def fail(error: Exception) -> NoReturn:
    """End a process of a group over an error that the user cannot fix: one line says where."""
    lost = lost_another(error)
    what = "another process is gone" if lost else type(error).__name__
    text = str(error).partition(". This is typically")[0] if lost else str(error)  # gloo's advice
    reason = " ".join(f"{what}: {text}".split())
    trace = "" if lost else "".join(traceback.format_exception(error))
    if not rank_file.leave_report(RankReport(1, reason, lost, trace)):
        print(f"{trace}{_describe_this(reason)}", file=sys.stderr)
    _exit(1)


def exit_now(reason: str, because_of_another: bool = False, in_full: bool = False) -> NoReturn:
    """End this process from any thread, whatever its main thread waits for, and report why.

    `because_of_another`: another process is to blame, which reports more. `in_full`: the line names
    a process already, another one, which cannot report.
    """
    line = reason if in_full else _describe_this(reason)
    report = RankReport(1, reason if because_of_another else line, because_of_another)
    if not rank_file.leave_report(report):
        print(line, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def describe(host: str, rank: int, step: int | None, reason: str) -> str:
    """The one line about a rank that died."""
    return f"rank {rank} on {host}, {rank_file.moment(step)}: {reason}"


def _describe_this(reason: str) -> str:
    rank = int(os.environ.get("RANK", "0"))
    return describe(socket.gethostname(), rank, rank_file.own_step(), reason)


def _exit(status: int) -> NoReturn:
    """Exit; within a group at once, since taking it down may wait for processes that are gone."""
    distributed = sys.modules.get("torch.distributed")
    if launched() and distributed is not None and distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _die_with_the_agent() -> None:
    """Ask the kernel for a SIGTERM when the agent is killed: this process then saves and ends.

    One may come per thread of the agent, so it must not be SIGINT, whose second one means more.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if rank_file.agent_is_gone():  # it was killed before the line above
        sys.exit("the agent is gone already")


def lost_another(error: BaseException) -> bool:
    """Whether an error only says that another process of the group has ended."""
    return isinstance(error, PeerLost) or _is_of_the_network(error)


def _is_of_the_network(error: BaseException) -> bool:
    """Whether a collective operation failed, as when another process has ended."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not isinstance(error, RuntimeError):
        return False
    text = str(error).lower()
    return isinstance(error, distributed.DistError) or "gloo" in text or "nccl" in text
