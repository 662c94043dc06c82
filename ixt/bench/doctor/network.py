"""Checks between processes: an all-reduce, and clocks."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from statistics import median

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import ProcessException, spawn

from ixt.bench.doctor.result import Result, fail, judge, warn
from ixt.distributed.group import join_group

_ELEMENTS, _REPEATS = 2**20, 5
_SLOWEST_GB_PER_S = 0.05
_MEET = timedelta(seconds=60)
_FIX = {
    "nccl": "set NCCL_DEBUG=INFO, find the first WARN; check /dev/shm and nvidia-smi topo -m",
    "gloo": "check the firewall and `ip addr`; set GLOO_SOCKET_IFNAME to the interface that works",
}


def check_group() -> Result:
    """An all-reduce over the group that a launcher made. Every process must call it."""
    join_group(timeout=_MEET)
    return judge_exchange(*exchange())


def check_local_network(limit_s: float = 20.0, work: Callable[..., None] | None = None) -> Result:
    """An all-reduce between processes of this machine: one per GPU over NCCL, or two over gloo.

    After `limit_s` the processes are ended; `work` is what each does instead, for tests.
    """
    num_gpus, end_s = torch.cuda.device_count(), time.monotonic() + limit_s
    backend, num_ranks = ("nccl", num_gpus) if num_gpus > 1 else ("gloo", 2)
    with tempfile.TemporaryDirectory() as folder:
        ranks = spawn(work or _join_as, (num_ranks, backend, folder), num_ranks, join=False)  # type: ignore[no-untyped-call]
        try:
            while not ranks.join(timeout=max(0.0, end_s - time.monotonic())):
                if time.monotonic() > end_s:
                    value = f"{num_ranks} processes did not meet in {limit_s:g} s"
                    return Result("fail", value, _FIX[backend])
        except ProcessException as error:
            reason = str(error).strip().splitlines()[-1]
            return Result("fail", f"{backend}: {reason}", _FIX[backend])
        finally:
            for process in ranks.processes:
                process.kill()
                process.join()
        return judge_exchange(*json.loads(Path(folder, "found.json").read_text()))


def judge_exchange(
    right: bool, num_ranks: int, backend: str, median_ms: float, clock_spread_s: float
) -> Result:
    """Judge what `exchange` gives."""
    moved = 4 * _ELEMENTS * 2 * (num_ranks - 1) / num_ranks
    speed, fix = moved / (median_ms / 1e3) / 1e9, _FIX[backend]
    value = (
        f"{num_ranks} ranks, {backend}: 4 MiB in {median_ms:.1f} ms, "
        f"{speed:.2f} GB/s, clocks within {clock_spread_s:.2f} s"
    )
    return judge(
        value if right else f"{value}, and the sum is wrong",
        fail(not right, fix),
        warn(
            clock_spread_s > 1, "clocks differ: start chrony or systemd-timesyncd on all machines"
        ),
        warn(speed < _SLOWEST_GB_PER_S, f"slow: {fix}"),
    )


def exchange() -> tuple[bool, int, str, float, float]:
    """Add 4 MiB over all ranks of the default group a few times.

    Returns:
        Whether the sum is that of all ranks, their number, the backend, the median time in ms, and
        the latest clock less the earliest in s, read just after a barrier.
    """
    rank, num_ranks, backend = dist.get_rank(), dist.get_world_size(), dist.get_backend()
    device = torch.device("cpu")
    if backend == "nccl":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", rank)))
        torch.cuda.set_device(device)
    times_ms, right = [], True
    for _ in range(1 + _REPEATS):
        data = torch.full((_ELEMENTS,), float(rank + 1), device=device)
        start_s = time.perf_counter()
        dist.all_reduce(data)
        low, high = data.min().item(), data.max().item()
        times_ms.append(1000 * (time.perf_counter() - start_s))
        right &= low == high == num_ranks * (num_ranks + 1) / 2
    dist.barrier()
    clock = torch.tensor([time.time()], dtype=torch.float64, device=device)
    clocks = [torch.zeros_like(clock) for _ in range(num_ranks)]
    dist.all_gather(clocks, clock)
    spread_s = max(clocks).item() - min(clocks).item()
    return right, num_ranks, backend, median(times_ms[1:]), spread_s


def _join_as(rank: int, num_ranks: int, backend: str, folder: str) -> None:
    """A process of `check_local_network`: rank 0 writes what it found to the folder."""
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", num_ranks)  # type: ignore[attr-defined]
    join_group(backend, store=store, rank=rank, world_size=num_ranks)
    found = exchange()
    if rank == 0:
        Path(folder, "found.json").write_text(json.dumps(found))
    dist.destroy_process_group()
