"""What a run ran on: versions, hardware and the source's commit."""

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

import ixt

# Device files of NVIDIA's drivers (also Jetson's), of Windows' Linux, and of AMD's.
_GPU_FILES = ("nvidia*", "nvhost*", "nvmap", "dxg", "kfd")

MACHINE = "machine.json"
"""Name of the description in a run's folder."""

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


def describe_machine() -> dict[str, Any]:
    """Versions, hardware and git commit, for the run folder and for benchmark results."""
    import torch

    from ixt.distributed.group import world_size

    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "ixt": ixt.__version__,
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "packages": {name: package_version(name) for name in _PACKAGES},
        "command": _command(),
        "platform": _platform(),
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "cpu_cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "cuda": torch.version.cuda if devices else None,
        "cudnn": torch.backends.cudnn.version() if devices else None,  # type: ignore[no-untyped-call]
        "devices": devices,
        "processes": world_size(),
    }


def may_have_gpu() -> bool:
    """Whether a driver of GPUs is there; False is sure, for True torch has to be asked."""
    return any(any(Path("/dev").glob(name)) for name in _GPU_FILES)


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


def cpu_name() -> str:
    """Name of this machine's processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
