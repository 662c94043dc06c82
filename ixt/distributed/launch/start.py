"""Where a command runs: in this process, in processes of ours, or among a launcher's."""

from __future__ import annotations

import sys
from pathlib import Path

from ixt.distributed.launch import worker
from ixt.distributed.launch.agent import Nodes, check_share, launch
from ixt.distributed.launch.environment import alone_by_choice, join


def in_processes(
    num_processes: int | None,
    nodes: Nodes | None = None,
    micro_batches: int | None = None,
    run_dir: Path | None = None,
) -> int | None:
    """Run this command line in several processes, unless it is to run here.

    Args:
        num_processes: asked for on this machine; None takes one per GPU.
        nodes: asked-for machines; None for this one alone.
        micro_batches: of an update, to be shared evenly; None where nothing is shared.
        run_dir: where the traceback of a process that crashed is written; None prints it.

    Returns:
        The exit status of the processes; None where this process has to do the work, alone or as
        one of a group.

    Raises:
        EngineError: as `join`, `check_share` and `launch`.
    """
    if join(starts_its_own=num_processes is not None or nodes is not None):
        worker.begin()
        return None
    count = num_processes or (1 if alone_by_choice() else _visible_gpus())
    if count == 1 and nodes is None:
        return None
    if micro_batches is not None:
        check_share(micro_batches, count, nodes or Nodes())
    return launch(sys.argv[1:], count, nodes, run_dir)


def _visible_gpus() -> int:
    import torch

    return torch.cuda.device_count() or 1
