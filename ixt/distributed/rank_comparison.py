"""Processes with other software, another recipe or other data than the first one are refused."""

from __future__ import annotations

import hashlib
import os
import platform
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

import ixt
from ixt.distributed.machine import cpu_name, package_version
from ixt.errors import EngineError
from ixt.images.data_digest import DataDigest
from ixt.images.data_digest import difference as data_difference
from ixt.recipe import Recipe

_SKEW_S = 60.0

# What may differ from host to host.
_LOCAL = ("data.root", "data.num_threads")


@dataclass(frozen=True)
class Process:
    """What a process reports of itself."""

    host: str
    versions: dict[str, str | None]
    recipe: dict[str, Any]
    """The resolved recipe by dotted key, without what may differ from host to host."""
    clock_s: float
    """Its wall clock, asked for in all processes at about the same time."""
    pid: int = 0
    device: str = ""
    """Name of what it computes on."""


def compare(accelerator: Accelerator, recipe: Recipe) -> tuple[list[Process], str | None]:
    """Compare the processes of a run. Every process must call it.

    Returns:
        The processes by rank, and a warning about their clocks.

    Raises:
        EngineError: a process has other versions or another recipe; the same in all processes.
    """
    accelerator.wait_for_everyone()  # the clocks are read together
    device = accelerator.device
    own = Process(
        host=socket.gethostname(),
        versions=_versions(),
        recipe=_flat(recipe),
        clock_s=time.time(),
        pid=os.getpid(),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
    )
    processes: list[Process] = gather_object([own])
    problem = difference(processes)
    if problem is not None:
        raise EngineError(problem)
    return processes, clock_warning(processes)


def compare_data(accelerator: Accelerator, data: Mapping[Any, DataDigest]) -> None:
    """Compare the images that the processes of a run see. Every process must call it.

    Raises:
        EngineError: a process sees others than the first one; the same in all processes.
    """
    digests = gather_object([{split: one.digest for split, one in data.items()}])
    if all(other == digests[0] for other in digests):
        return
    # With all classes only now: they are 30 KB per split of ImageNet.
    processes: list[tuple[str, dict[str, DataDigest]]] = gather_object(
        [(socket.gethostname(), dict(data))]
    )
    raise EngineError(_other_data(processes))


def _other_data(processes: Sequence[tuple[str, Mapping[str, DataDigest]]]) -> str:
    """One line about the first split that differs from rank 0's; None if none does."""
    first_host, first = processes[0]
    rank, host, split, other = next(
        (rank, host, split, data[split])
        for rank, (host, data) in enumerate(processes)
        for split in first
        if data[split].digest != first[split].digest
    )
    return (
        f"rank {rank} on {host} has different {split} images from rank 0 on {first_host}: "
        f"{data_difference(other, first[split])}; give all processes the same data"
    )


def difference(processes: Sequence[Process]) -> str | None:
    """One line about the first version or key that differs from rank 0's; None if none does."""
    first = processes[0]
    for rank, other in enumerate(processes):
        for name, version in first.versions.items():
            if other.versions[name] != version:
                return (
                    f"rank {rank} on {other.host} has {name} {other.versions[name] or '(none)'}, "
                    f"but rank 0 on {first.host} has {version or '(none)'}; "
                    "install the same version on both"
                )
        for key, value in first.recipe.items():
            if other.recipe[key] != value:
                return (
                    f"rank {rank} on {other.host} has {key} {other.recipe[key]!r}, but rank 0 on "
                    f"{first.host} has {value!r}; give all processes the same recipe"
                )
    return None


def clock_warning(processes: Sequence[Process]) -> str | None:
    """One line about the clock that is farthest from rank 0's, if that is more than a minute."""
    skews = [process.clock_s - processes[0].clock_s for process in processes]
    rank = max(range(len(skews)), key=lambda n: abs(skews[n]))
    if abs(skews[rank]) <= _SKEW_S:
        return None
    return (
        f"the clock of rank {rank} on {processes[rank].host} differs by {skews[rank]:+.0f} s "
        f"from that of rank 0 on {processes[0].host}; synchronise both by NTP, otherwise times "
        "in logs are misleading"
    )


def _versions() -> dict[str, str | None]:
    return {
        "python": ".".join(platform.python_version_tuple()[:2]),
        "ixt": f"{ixt.__version__} (source {_source()})",
        "torch": torch.__version__,
        **{name: package_version(name) for name in ("timm", "nvidia-dali-cuda130")},
    }


def _source() -> str:
    """Short hash of the package's own code: checkouts differ more often than versions do."""
    folder, content = Path(ixt.__file__).parent, hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        content.update(file.relative_to(folder).as_posix().encode())
        content.update(file.read_bytes())
    return content.hexdigest()[:8]


def _flat(recipe: Recipe) -> dict[str, Any]:
    sections = recipe.model_dump(mode="json")
    flat = {
        f"{name}.{key}": value for name, keys in sections.items() for key, value in keys.items()
    }
    return {key: value for key, value in flat.items() if key not in _LOCAL}
