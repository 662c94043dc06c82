"""Checks of the machine: GPUs, cores, memory, limits, clock. Judges take numbers alone."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from ixt.bench.roofline import find_device
from ixt.distributed.accelerator import cores_per_process
from ixt.doctor.check import Result
from ixt.errors import EngineError

_GIB = 2**30
_CGROUP = Path("/sys/fs/cgroup")
# NVML's bits of hardware slowdown, hardware thermal slowdown and power brake.
_THROTTLED = 0x8 | 0x40 | 0x80
_TIME_ERROR = 5  # what adjtimex returns while no time server holds the clock


@dataclass(frozen=True)
class GpuState:
    """A GPU as its driver sees it."""

    driver: str
    """Version of the driver."""
    slowed: bool
    """Heat or power lower its clocks now."""
    used_mib: float
    """Memory in use, by anybody."""


def check_gpu() -> Result:
    """GPUs, driver and CUDA, as torch and as the driver see them."""
    seen = _driver_gpus()
    if not torch.cuda.is_available():
        if not seen:
            return Result("warn", "no CUDA device", "training runs on the CPU: for tests only")
        driver = seen[0].driver
        return Result(
            "fail",
            f"driver {driver} has {len(seen)} GPUs and torch for CUDA {torch.version.cuda} none",
            "update the driver for this CUDA, install torch for an older one, or check "
            "CUDA_VISIBLE_DEVICES and the container's --gpus",
        )
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    kinds = ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
    driver = seen[0].driver if seen else "unknown"
    value = f"{kinds}, driver {driver}, CUDA {torch.version.cuda}"
    return judge_gpus(value, names, seen)


def judge_gpus(value: str, names: list[str], states: list[GpuState]) -> Result:
    """Judge GPUs by their kinds and states."""
    if len(set(names)) > 1:
        return Result("warn", value, "unlike GPUs: all wait for the slowest; choose one kind")
    if any(state.slowed for state in states):
        fix = "a GPU is slowed by heat or power: see nvidia-smi -q -d PERFORMANCE"
        return Result("warn", value, fix)
    if any(state.used_mib > 1024 for state in states):
        fix = "another process holds GPU memory: see nvidia-smi, and end it"
        return Result("warn", value, fix)
    try:
        find_device(names[0])
    except EngineError:
        fix = "no published peaks for it: give `ixt plan` and `ixt bench` a YAML file"
        return Result("warn", value, fix)
    return Result("ok", value)


def check_nccl() -> Result:
    """The library that joins GPUs."""
    if not torch.cuda.is_available():
        return Result("ok", "not needed here, gloo joins CPU processes")
    if not torch.distributed.is_nccl_available():
        return Result("fail", "torch has no NCCL", "install a Linux CUDA build of torch")
    numbers = torch.cuda.nccl.version()  # type: ignore[no-untyped-call]
    return Result("ok", ".".join(map(str, numbers)))


def check_cores() -> Result:
    """CPU cores that may be used, against what the container is allowed."""
    processes = torch.cuda.device_count() or 1
    return judge_cores(len(os.sched_getaffinity(0)), cgroup_cores(), processes)


def judge_cores(cores: int, allowed: float | None, num_gpus: int) -> Result:
    """Judge the cores in the affinity mask, the cgroup's share (None: all) and the GPUs to feed."""
    value = f"{cores} cores" + (f", the container may use {allowed:g}" if allowed else "")
    if allowed is not None and allowed < cores:
        return Result(
            "warn",
            value,
            f"threads are counted by cores and will be throttled: set data.num_threads to "
            f"{max(1, int(allowed) // num_gpus)} and OMP_NUM_THREADS=1, or raise the limit "
            "(docker --cpus, Kubernetes limits.cpu)",
        )
    if torch.cuda.is_available() and cores < 4 * num_gpus:
        return Result("warn", value, "fewer than 4 cores per GPU: feeding them may be the limit")
    return Result("ok", value)


def cgroup_cores(root: Path = _CGROUP) -> float | None:
    """Cores that the cgroup allows, by version 2's or version 1's files; None for no limit."""
    try:
        quota, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (root / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    return None if quota in ("max", "-1") else int(quota) / int(period)


def check_memory() -> Result:
    """Free main memory, the container's limit considered."""
    memory = psutil.virtual_memory()
    limit = cgroup_memory()
    total = min(memory.total, limit) if limit else memory.total
    return judge_memory(min(memory.available, total), total, torch.cuda.device_count() or 1)


def judge_memory(available: float, total: float, processes: int) -> Result:
    """Judge bytes of main memory for this many processes."""
    value = f"{available / _GIB:.1f} of {total / _GIB:.1f} GiB free"
    each = available / processes / _GIB
    if each < 2:
        return Result("fail", value, "a process needs 2 GiB to start: free memory, or ask for more")
    if each < 8 and torch.cuda.is_available():
        return Result("warn", value, "less than 8 GiB per GPU: lower data.prefetch_batches")
    return Result("ok", value)


def cgroup_memory(root: Path = _CGROUP) -> int | None:
    """Bytes that the cgroup allows; None for no limit."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            text = (root / name).read_text().strip()
        except OSError:
            continue
        limit = None if text == "max" else int(text)
        return limit if limit is not None and limit < 2**60 else None
    return None


def check_shared_memory(path: str = "/dev/shm") -> Result:
    """Shared memory, through which NCCL joins GPUs of a machine without a direct link."""
    return judge_shared_memory(shutil.disk_usage(path).total, torch.cuda.device_count())


def judge_shared_memory(size: float, num_gpus: int) -> Result:
    """Judge bytes of /dev/shm; containers come with 64 MiB."""
    value = f"{size / _GIB:.2f} GiB"
    fix = "start the container with --ipc=host or --shm-size=8g (Kubernetes: emptyDir, Memory)"
    if num_gpus > 1 and size < 64 * 2**20 * num_gpus:
        return Result("fail", value, fix)
    return Result("warn", value, fix) if size < _GIB else Result("ok", value)


def check_open_files() -> Result:
    """How many files a process may hold open."""
    return judge_open_files(*resource.getrlimit(resource.RLIMIT_NOFILE))


def judge_open_files(soft: int, hard: int) -> Result:
    """Judge the soft and the hard limit; a negative one means none."""
    value = f"{soft}" if soft >= 0 else "unlimited"
    if 0 <= soft < 4096:
        reach = "ulimit -n 65536" if hard < 0 or hard >= 65536 else f"ulimit -n {hard}"
        fix = f"{reach}; for good: nofile in /etc/security/limits.conf"
        return Result("fail" if soft < 512 else "warn", value, fix)
    return Result("ok", value)


def check_threads() -> Result:
    """OpenMP's threads against the cores of a process."""
    return judge_threads(os.environ.get("OMP_NUM_THREADS"), cores_per_process())


def judge_threads(setting: str | None, cores: int) -> Result:
    """Judge OMP_NUM_THREADS for a process that has this many cores."""
    if setting is None:
        return Result("ok", f"OMP_NUM_THREADS unset, ixt shares {cores} cores per process")
    value = f"OMP_NUM_THREADS={setting}, {cores} cores per process"
    if not setting.split(",")[0].isdigit() or int(setting.split(",")[0]) < 1:
        return Result("fail", value, "give a positive number, or unset it")
    if int(setting.split(",")[0]) > cores:
        fix = f"export OMP_NUM_THREADS={cores}: too many threads run ten times slower"
        return Result("warn", value, fix)
    return Result("ok", value)


def check_clock() -> Result:
    """Whether a time server holds this machine's clock. Asks the kernel."""
    # struct timex of x86_64 and aarch64: the fourth long is the largest error in microseconds.
    timex = (ctypes.c_long * 64)()
    state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex))
    if state < 0:
        raise OSError(ctypes.get_errno(), "adjtimex")
    return judge_clock(state == _TIME_ERROR, timex[3] / 1e6)


def judge_clock(adrift: bool, error_s: float) -> Result:
    """Judge a clock by the kernel's word for it and its largest error."""
    if adrift:
        fix = "on one machine it does not matter; on several, start chrony or systemd-timesyncd"
        return Result("warn", "no time server holds the clock", fix)
    return Result("ok", f"held by a time server within {error_s:.3f} s")


def _driver_gpus() -> list[GpuState]:
    """The GPUs that the driver knows, whether torch can use them or not; none without a driver."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no package, no library, no driver: there is nothing to read
        return []
    driver = str(pynvml.nvmlSystemGetDriverVersion())
    states = []
    for number in range(pynvml.nvmlDeviceGetCount()):
        handle = pynvml.nvmlDeviceGetHandleByIndex(number)
        try:
            slowed = pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle) & _THROTTLED
            used = pynvml.nvmlDeviceGetMemoryInfo(handle).used
        except pynvml.NVMLError:  # a sensor that this card or container does not show
            slowed, used = 0, 0
        states.append(GpuState(driver, bool(slowed), used / 2**20))
    return states
