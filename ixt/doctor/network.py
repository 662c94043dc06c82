"""Checks between processes: an all-reduce, and clocks.

Run as a module, it is one of the processes that the check starts on this machine.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass

import torch
import torch.distributed as dist

from ixt.distributed.group import join_group
from ixt.doctor.check import Result

_ELEMENTS = 2**20
_REPEATS = 5
_SLOWEST_GB_PER_S = 0.05


@dataclass(frozen=True)
class Exchange:
    """What an all-reduce of 4 MiB showed."""

    right: bool
    """The sum was that of all ranks."""
    num_ranks: int
    backend: str
    median_ms: float
    clock_spread_s: float
    """Latest clock less earliest, read just after a barrier."""


def check_local_network(limit_s: float = 20.0) -> Result:
    """An all-reduce between processes of this machine: one per GPU over NCCL, or two over gloo."""
    num_gpus = torch.cuda.device_count()
    backend, num_ranks = ("nccl", num_gpus) if num_gpus > 1 else ("gloo", 2)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    end_s = time.monotonic() + limit_s
    with ExitStack() as stack:  # closes pipes and waits for each process
        processes = [
            stack.enter_context(_start(rank, num_ranks, backend, port)) for rank in range(num_ranks)
        ]
        try:
            outputs = [
                process.communicate(timeout=max(0.0, end_s - time.monotonic()))
                for process in processes
            ]
        except subprocess.TimeoutExpired:
            value = f"{num_ranks} processes did not meet in {limit_s:g} s"
            return Result("fail", value, _how(backend))
        finally:
            for process in processes:
                process.kill()
    ends = zip(processes, outputs, strict=True)
    failed = [errors for process, (_, errors) in ends if process.returncode]
    if failed:
        lines = failed[0].strip().splitlines() or ["no message"]
        return Result("fail", f"{backend}: {lines[-1]}", _how(backend))
    return judge_exchange(Exchange(**json.loads(outputs[0][0].splitlines()[-1])))


def check_group() -> Result:
    """The same over the group that a launcher made. Every process must call it."""
    return judge_exchange(exchange())


def judge_exchange(found: Exchange) -> Result:
    """Judge an all-reduce and the ranks' clocks."""
    moved = 4 * _ELEMENTS * 2 * (found.num_ranks - 1) / found.num_ranks
    speed = moved / (found.median_ms / 1e3) / 1e9
    value = (
        f"{found.num_ranks} ranks, {found.backend}: 4 MiB in {found.median_ms:.1f} ms, "
        f"{speed:.2f} GB/s, clocks within {found.clock_spread_s:.2f} s"
    )
    if not found.right:
        return Result("fail", f"{value}, and the sum is wrong", _how(found.backend))
    if found.clock_spread_s > 1:
        fix = "clocks differ: start chrony or systemd-timesyncd on every machine"
        return Result("warn", value, fix)
    if speed < _SLOWEST_GB_PER_S:
        return Result("warn", value, f"slow: {_how(found.backend)}")
    return Result("ok", value)


def exchange() -> Exchange:
    """Add 4 MiB over all ranks of the default group a few times."""
    rank, num_ranks, backend = dist.get_rank(), dist.get_world_size(), dist.get_backend()
    local = int(os.environ.get("LOCAL_RANK", rank))
    device = torch.device("cuda", local) if backend == "nccl" else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    times, right = [], True
    for _ in range(1 + _REPEATS):
        data = torch.full((_ELEMENTS,), float(rank + 1), device=device)
        start_s = time.perf_counter()
        dist.all_reduce(data)
        low, high = data.min().item(), data.max().item()
        times.append(time.perf_counter() - start_s)
        right &= low == high == num_ranks * (num_ranks + 1) / 2
    dist.barrier()
    clock = torch.tensor([time.time()], dtype=torch.float64, device=device)
    clocks = [torch.zeros_like(clock) for _ in range(num_ranks)]
    dist.all_gather(clocks, clock)
    read = [value.item() for value in clocks]
    return Exchange(
        right=right,
        num_ranks=num_ranks,
        backend=backend,
        median_ms=1000 * sorted(times[1:])[_REPEATS // 2],
        clock_spread_s=max(read) - min(read),
    )


def _start(rank: int, num_ranks: int, backend: str, port: int) -> subprocess.Popen[str]:
    group = {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(num_ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "ixt.doctor.network", backend],
        env={**os.environ, **group},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _how(backend: str) -> str:
    if backend == "nccl":
        return (
            "set NCCL_DEBUG=INFO and look for the first WARN; check /dev/shm and nvidia-smi topo -m"
        )
    return "check the firewall and `ip addr`; set GLOO_SOCKET_IFNAME to the interface that works"


def _main() -> None:
    join_group(sys.argv[1])
    try:
        found = exchange()
        if dist.get_rank() == 0:
            print(json.dumps(asdict(found)))
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    _main()
