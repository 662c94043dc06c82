"""Which checks run, here and on the other machines of a group."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

from ixt.distributed.group import join_group
from ixt.distributed.launch.environment import launched
from ixt.doctor import compute, machine, network, software, storage
from ixt.doctor.check import Check, Result, run_checks

_MEET = timedelta(seconds=60)


def examine(data: str | None, run_dir: Path) -> list[Result]:
    """Run every check.

    Started by torchrun or srun, the ranks meet, the first rank of each machine examines it, and
    every rank returns the results of all machines.

    Args:
        data: folder with train/ and val/, to measure reading; None to leave that out.
        run_dir: where runs will go; its nearest existing parent is tested.
    """
    checks = _checks(data, run_dir)
    if not launched():
        alone = Check("network", network.check_local_network, limit_s=25)
        return run_checks([*checks, alone])
    meeting = Check("network", _meet, limit_s=90)
    met = run_checks([meeting], budget_s=meeting.limit_s)
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    own = run_checks(checks) if first else []
    return _gather([*own, *(met if first else [])])


def _checks(data: str | None, run_dir: Path) -> list[Check]:
    precisions = ("fp32", "bf16", "fp16") if torch.cuda.is_available() else ("fp32", "bf16")
    reading = [Check("data", partial(storage.check_data, data))] if data is not None else []
    return [
        Check("python", software.check_python),
        Check("packages", software.check_packages),
        Check("dali", software.check_dali),
        Check("c compiler", software.check_compiler, limit_s=30),
        Check("commit", software.check_commit),
        Check("gpu", machine.check_gpu),
        Check("nccl", machine.check_nccl),
        Check("cores", machine.check_cores),
        Check("threads", machine.check_threads),
        Check("memory", machine.check_memory),
        Check("shared memory", machine.check_shared_memory),
        Check("open files", machine.check_open_files),
        Check("clock", machine.check_clock),
        Check("run folder", partial(storage.check_run_folder, run_dir)),
        *reading,
        Check("decoding", compute.check_decoding, limit_s=20),
        *(Check(f"step {kind}", partial(compute.check_training, kind)) for kind in precisions),
    ]


def _meet() -> Result:
    if not dist.is_initialized():
        join_group(timeout=_MEET)
    return network.check_group()


def _gather(results: list[Result]) -> list[Result]:
    """The results of every rank, each with its host's name; one's own if the group is broken."""
    named = [replace(result, host=socket.gethostname()) for result in results]
    if not dist.is_initialized():
        return named
    everyone: list[list[Result] | None] = [None] * dist.get_world_size()
    try:
        dist.all_gather_object(everyone, named)
    except RuntimeError as error:  # a rank is gone, or was never there
        reason = str(error).splitlines()[0]
        fix = "see what the other ranks say; their results are not here"
        return [*named, Result("fail", f"results do not arrive: {reason}", fix, "gather")]
    finally:
        dist.destroy_process_group()
    return [result for each in everyone if each for result in each]
