"""Which checks run, each alone and none for too long, here and on the other machines of a group."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread

import torch
import torch.distributed as dist

from ixt.bench.doctor import compute, machine, network, software, storage
from ixt.bench.doctor.result import Result
from ixt.distributed.launch.environment import launched

Checks = dict[str, Callable[[], Result]]

_LIMIT_S = 30.0  # for one check
_BUDGET_S = 45.0  # for all; when it is used up, each has one second left
_MEET_S = 90.0


def examine(data: str | None, run_dir: Path) -> list[Result]:
    """Run every check.

    Started by torchrun or srun, the ranks meet, the first rank of each machine examines it, and
    every rank returns the results of all machines.

    Without `data`, no reading is measured; of `run_dir`, the nearest existing parent is tested.
    """
    checks = _checks(data, run_dir)
    if not launched():
        return run_checks({**checks, "network": network.check_local_network})
    met = run_checks({"network": network.check_group}, _MEET_S, _MEET_S)
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    return _gather([*run_checks(checks), *met] if first else [])


def run_checks(
    checks: Checks, budget_s: float = _BUDGET_S, limit_s: float = _LIMIT_S
) -> list[Result]:
    """Run checks one after another; one that raises or hangs fails, and the others continue."""
    end_s = time.perf_counter() + budget_s
    return [
        _run(name, check, min(limit_s, max(1.0, end_s - time.perf_counter())))
        for name, check in checks.items()
    ]


def _checks(data: str | None, run_dir: Path) -> Checks:
    precisions = ("fp32", "bf16", "fp16") if torch.cuda.is_available() else ("fp32", "bf16")
    return {
        **software.CHECKS,
        **machine.CHECKS,
        "run folder": partial(storage.check_run_folder, run_dir),
        **({} if data is None else {"data": partial(storage.check_data, data)}),
        "decoding": compute.check_decoding,
        **{f"step {kind}": partial(compute.check_training, kind) for kind in precisions},
    }


def _run(name: str, check: Callable[[], Result], limit_s: float) -> Result:
    found: SimpleQueue[Result] = SimpleQueue()

    def work() -> None:
        try:
            found.put(check())
        except Exception as error:  # a check that breaks has found something
            reason = (str(error).strip() or "no message").splitlines()[0]
            fix = "see what the message names; if the machine is sound, report it"
            found.put(Result("fail", f"the check broke: {type(error).__name__}: {reason}", fix))

    start_s = time.perf_counter()
    # A daemon: a hanging driver or file system must not keep the program from ending.
    Thread(target=work, name=name, daemon=True).start()
    try:
        result = found.get(timeout=limit_s)
    except Empty:
        fix = "the machine is overloaded, or a driver, disk or network hangs; look at dmesg and top"
        result = Result("fail", f"no answer in {limit_s:.3g} s", fix)
    return replace(result, name=name, seconds=time.perf_counter() - start_s)


def _gather(results: list[Result]) -> list[Result]:
    """The results of every rank, each with its host's name; only these if the group is broken."""
    named = [replace(result, host=socket.gethostname()) for result in results]
    if not dist.is_initialized():
        return named
    everyone: list[list[Result] | None] = [None] * dist.get_world_size()
    try:
        dist.all_gather_object(everyone, named)
    except RuntimeError as error:  # a rank is gone, or was never there
        reason = str(error).splitlines()[0]
        fix = "see what the other ranks print; their results are not here"
        return [*named, Result("fail", f"results do not arrive: {reason}", fix, "gather")]
    finally:
        dist.destroy_process_group()
    return [result for each in everyone if each for result in each]
