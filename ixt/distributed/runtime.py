"""Processes, devices and precision of a recipe; seeds; the description of the machine."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.distributed as dist
from accelerate import Accelerator

import ixt
from ixt.errors import EngineError
from ixt.pipeline.plan.hashing import Draw, hash64
from ixt.recipe import Recipe

_PACKAGES = (
    "torch",
    "torchvision",
    "triton",
    "timm",
    "accelerate",
    "deepspeed",
    "numpy",
    "pillow",
    "nvidia-dali-cuda130",
)


def build_accelerator(recipe: Recipe, run_dir: Path, **options: Any) -> Accelerator:
    """Join the process group if a launcher started this process, and set devices and precision.

    Args:
        recipe: its engine section decides; trackers come from its run section. Which engine
            trains is the business of `ixt.distributed.engine`.
        run_dir: where trackers write.
        options: further arguments for Accelerator, such as those of an engine; they win.

    Raises:
        EngineError: the batch cannot be divided over the processes, the precision does not exist
            here, or the process group's port is taken.
    """
    engine, cuda = recipe.engine, torch.cuda.is_available()
    if engine.precision == "fp16" and not cuda:
        raise EngineError("engine.precision: fp16 needs a CUDA device; use bf16 or fp32 here")
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if engine.micro_batches % processes:
        raise EngineError(
            f"engine: {engine.micro_batches} micro-batches per update (global_batch_size / "
            f"micro_batch_size) cannot be shared by {processes} processes; change one of them"
        )
    _set_threads(int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    set_math(recipe, cuda)
    settings: dict[str, Any] = {
        "cpu": not cuda,
        "mixed_precision": "no" if engine.precision == "fp32" else engine.precision,
        "gradient_accumulation_steps": engine.micro_batches // processes,
        "log_with": list(recipe.run.trackers) or None,
        "project_dir": str(run_dir),
    }
    try:
        accelerator = Accelerator(**{**settings, **options})
    except dist.DistNetworkError as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        reason = str(error).splitlines()[0]
        raise EngineError(
            f"{where}: the processes cannot meet there: {reason}; set MASTER_PORT to a free port"
        ) from error
    except ValueError as error:  # an unknown or missing tracker
        raise EngineError(f"run.trackers: {error}") from error
    _check_trackers(accelerator, recipe.run.trackers)
    return accelerator


def _check_trackers(accelerator: Accelerator, wanted: tuple[str, ...]) -> None:
    """Refuse a tracker that is not installed: Accelerate leaves it out without a word."""
    there = {str(getattr(tracker, "value", tracker)) for tracker in accelerator.log_with}
    missing = [name for name in wanted if name not in there]
    if missing:
        raise EngineError(
            f"run.trackers: {missing[0]} is not installed; install it with pip, or leave it out"
        )


def _set_threads(local_processes: int) -> None:
    """Share the cores: several processes with all threads each are ten times slower."""
    if "OMP_NUM_THREADS" not in os.environ or local_processes > 1:
        torch.set_num_threads(cores_per_process(local_processes))


def cores_per_process(local_processes: int | None = None) -> int:
    """CPU cores that one of the processes on this machine may use, at least 1."""
    local = local_processes or int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, len(os.sched_getaffinity(0)) // local)


def set_math(recipe: Recipe, cuda: bool) -> None:
    """Set TF32 and cuDNN's algorithms explicitly, since torch's defaults differ by version."""
    if not cuda:
        return
    precision = "tf32" if recipe.engine.tf32 else "ieee"
    torch.backends.cudnn.conv.fp32_precision = precision  # type: ignore[attr-defined]
    torch.backends.cuda.matmul.fp32_precision = precision
    torch.backends.cudnn.deterministic = recipe.engine.deterministic
    torch.backends.cudnn.benchmark = not recipe.engine.deterministic


def world_size() -> int:
    """Processes in the group; 1 without a group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def seed_model(*keys: int) -> None:
    """Seed torch for the model's own draws (initial weights, drop path, dropout).

    Called with (seed,) for the weights and (seed, step, micro-batch) before each forward pass, it
    makes these draws a function of their place in the run, on any number of processes.
    """
    torch.manual_seed(int(hash64(*keys, Draw.MODEL) >> 1))


def describe_machine() -> dict[str, Any]:
    """Versions, hardware and git commit, for the run folder and for benchmark results."""
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "ixt": ixt.__version__,
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "packages": {name: package_version(name) for name in _PACKAGES},
        "command": _command(),
        "platform": _platform(),
        "cpu": _cpu_name(),
        "cpu_cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "cuda": torch.version.cuda if devices else None,
        "cudnn": torch.backends.cudnn.version() if devices else None,  # type: ignore[no-untyped-call]
        "devices": devices,
        "processes": world_size(),
    }


def package_version(package: str) -> str | None:
    """Version of an installed package; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@cache  # every checkpoint holds it; asking git each time would stall training
def _git_commit() -> str | None:
    """The checkout's commit, with `+` where files differ from it; None outside a checkout."""
    folder = str(Path(ixt.__file__).parent)
    try:
        # Asked about this folder only: an installed copy may lie, ignored, in somebody's checkout.
        commit = _git(folder, "log", "-1", "--format=%H", "--", ".")
        changed = _git(folder, "status", "--porcelain", "--", ".")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}{'+' if changed else ''}" if commit else None


def _git(folder: str, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", folder, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def _command() -> list[str]:
    """The command line, without the folder of the program, which says nothing about the run."""
    program = Path(sys.argv[0]).name
    return ["ixt" if program == "__main__.py" else program, *sys.argv[1:]]


def _platform() -> str:
    """System, kernel without its builder's suffix, instruction set and C library."""
    kernel = re.match(r"[\d.]*\d", platform.release())
    return " ".join(
        (platform.system(), kernel[0] if kernel else "", platform.machine(), *platform.libc_ver())
    )


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
