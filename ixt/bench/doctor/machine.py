"""Checks of the machine: GPUs, cores, memory, limits, clock. Judges take numbers alone."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import torch

from ixt.bench.doctor.result import Result, fail, judge, warn
from ixt.bench.measure.sensors import read_device
from ixt.bench.roofline import find_device
from ixt.errors import EngineError
from ixt.pipeline.decode.thread_pool import cores_per_process

_GIB = 2**30
_CGROUP = Path("/sys/fs/cgroup")
_DRIVER_GPUS = Path("/proc/driver/nvidia/gpus")
_TIME_ERROR = 5  # what adjtimex returns while no time server holds the clock


def check_gpu() -> Result:
    """GPUs, driver and CUDA, as torch and as the driver see them."""
    cuda = torch.version.cuda
    if not torch.cuda.is_available():
        unused = len(list(_DRIVER_GPUS.glob("*")))
        chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
        if unused and chosen in ("", "-1"):
            return judge(
                f"CUDA_VISIBLE_DEVICES={chosen} hides {unused} GPUs",
                warn(True, "training runs on the CPU: unset it to train on them"),
            )
        fix = "update the driver for this CUDA, install torch for an older one, or check "
        return judge(
            f"the driver has {unused} GPUs and torch for CUDA {cuda} none"
            if unused
            else "no CUDA device",
            fail(unused, f"{fix}CUDA_VISIBLE_DEVICES and the container's --gpus"),
            warn(True, "training runs on the CPU: for tests only"),
        )
    devices = [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
    names = [torch.cuda.get_device_name(device) for device in devices]
    readings = [reading for device in devices if (reading := read_device(device))]
    free = [torch.cuda.mem_get_info(device) for device in devices]
    return judge_gpus(
        f"CUDA {cuda}, driver {readings[0].driver if readings else 'unknown'}",
        names,
        [reason for reading in readings for reason in reading.throttled],
        max(total - left for left, total in free),
    )


def judge_gpus(driver: str, names: list[str], throttled: Sequence[str], used: float) -> Result:
    """Judge GPUs by their kinds, the reasons for lowered clocks, and the most bytes used on one."""
    kinds = ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
    reasons = " and ".join(dict.fromkeys(throttled))
    return judge(
        f"{kinds}, {driver}",
        warn(len(set(names)) > 1, "unlike GPUs: all wait for the slowest; choose one kind"),
        warn(throttled, f"clocks are lowered ({reasons}): see nvidia-smi -q -d PERFORMANCE"),
        # A context of this process takes up to a gigabyte.
        warn(used > 2 * _GIB, "another process holds GPU memory: see nvidia-smi, and end it"),
        warn(
            not _has_peaks(names[0]),
            "no published peaks for it: give `ixt plan` and `ixt bench` a YAML file",
        ),
    )


def check_nccl() -> Result:
    """The library that joins GPUs."""
    if not torch.cuda.is_available():
        return Result("ok", "not needed here, gloo joins CPU processes")
    if not torch.distributed.is_nccl_available():
        return Result("fail", "torch has no NCCL", "install a Linux CUDA build of torch")
    numbers = torch.cuda.nccl.version()  # type: ignore[no-untyped-call]
    return Result("ok", ".".join(map(str, numbers)))


def judge_cores(cores: int, allowed: float | None, num_gpus: int) -> Result:
    """Judge the cores in the affinity mask, the cgroup's share (None: all) and the GPUs to feed."""
    threads = max(1, int(allowed or cores) // (num_gpus or 1))
    return judge(
        f"{cores} cores" + (f", the container may use {allowed:g}" if allowed else ""),
        warn(
            allowed is not None and allowed < cores,
            "threads are counted by cores and will be throttled: set data.num_threads to "
            f"{threads} and OMP_NUM_THREADS=1, or raise the limit "
            "(docker --cpus, Kubernetes limits.cpu)",
        ),
        warn(cores < 4 * num_gpus, "fewer than 4 cores per GPU: feeding them may be the limit"),
    )


def cgroup_cores(root: Path = _CGROUP) -> float | None:
    """Cores that the cgroup allows, by version 2's or version 1's files; None for no limit."""
    old = (root / "cpu/cpu.cfs_quota_us", root / "cpu/cpu.cfs_period_us")
    words = _words(root / "cpu.max") or [word for file in old for word in _words(file)]
    return None if words[:1] in ([], ["max"], ["-1"]) else int(words[0]) / int(words[1])


def judge_threads(setting: str | None, cores: int) -> Result:
    """Judge OMP_NUM_THREADS for a process that has this many cores."""
    if setting is None:
        return Result("ok", f"OMP_NUM_THREADS unset, ixt shares {cores} cores per process")
    first = setting.split(",")[0]
    threads = int(first) if first.isdigit() else 0
    fix = f"export OMP_NUM_THREADS={cores}: too many threads run ten times slower"
    return judge(
        f"OMP_NUM_THREADS={setting}, {cores} cores per process",
        fail(threads < 1, "give a positive number, or unset it"),
        warn(threads > cores, fix),
    )


def check_memory() -> Result:
    """Free main memory, the container's limit considered."""
    memory = psutil.virtual_memory()
    total = min(memory.total, cgroup_memory() or memory.total)
    return judge_memory(min(memory.available, total), total, torch.cuda.device_count())


def judge_memory(available: float, total: float, num_gpus: int) -> Result:
    """Judge bytes of main memory for a process per GPU, or one without GPUs."""
    each = available / (num_gpus or 1) / _GIB
    return judge(
        f"{available / _GIB:.1f} of {total / _GIB:.1f} GiB free",
        fail(each < 2, "a process needs 2 GiB to start: free memory, or ask for more"),
        warn(num_gpus and each < 8, "less than 8 GiB per GPU: lower data.prefetch_batches"),
    )


def cgroup_memory(root: Path = _CGROUP) -> int | None:
    """Bytes that the cgroup allows; None for no limit."""
    words = _words(root / "memory.max") or _words(root / "memory/memory.limit_in_bytes")
    limited = words not in ([], ["max"]) and int(words[0]) < 2**60
    return int(words[0]) if limited else None


def judge_shared_memory(size: float, num_gpus: int) -> Result:
    """Judge bytes of /dev/shm, which NCCL needs between GPUs; containers come with 64 MiB."""
    fix = "start the container with --ipc=host or --shm-size=8g (Kubernetes: emptyDir, Memory)"
    small = num_gpus > 1 and size < 64 * 2**20 * num_gpus
    return judge(f"{size / _GIB:.2f} GiB", fail(small, fix), warn(size < _GIB, fix))


def judge_open_files(soft: int, hard: int) -> Result:
    """Judge the soft and the hard limit of open files; a negative one means none."""
    reach = 65536 if hard < 0 else min(hard, 65536)
    fix = f"ulimit -n {reach}; permanently: nofile in /etc/security/limits.conf"
    value = f"{soft}" if soft >= 0 else "unlimited"
    return judge(value, fail(0 <= soft < 512, fix), warn(0 <= soft < 4096, fix))


def check_clock() -> Result:
    """Whether a time server holds this machine's clock, as the kernel says."""
    # struct timex of x86_64 and aarch64: the fourth long is the largest error in microseconds.
    timex = (ctypes.c_long * 64)()
    state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex))
    if state < 0:
        raise OSError(ctypes.get_errno(), "adjtimex")
    return judge_clock(state == _TIME_ERROR, timex[3] / 1e6)


def judge_clock(adrift: bool, error_s: float) -> Result:
    """Judge a clock that no time server holds, or its largest error."""
    fix = "on one machine it does not matter; on several, start chrony or systemd-timesyncd"
    held = f"held by a time server within {error_s:.3f} s"
    return judge("no time server holds the clock" if adrift else held, warn(adrift, fix))


CHECKS: dict[str, Callable[[], Result]] = {
    "gpu": check_gpu,
    "nccl": check_nccl,
    "cores": lambda: judge_cores(
        len(os.sched_getaffinity(0)), cgroup_cores(), torch.cuda.device_count()
    ),
    "threads": lambda: judge_threads(os.environ.get("OMP_NUM_THREADS"), cores_per_process()),
    "memory": check_memory,
    "shared memory": lambda: judge_shared_memory(
        shutil.disk_usage("/dev/shm").total, torch.cuda.device_count()
    ),
    "open files": lambda: judge_open_files(*resource.getrlimit(resource.RLIMIT_NOFILE)),
    "clock": check_clock,
}


def _words(file: Path) -> list[str]:
    return file.read_text().split() if file.is_file() else []


def _has_peaks(name: str) -> bool:
    try:
        find_device(name)
    except EngineError:
        return False
    return True
