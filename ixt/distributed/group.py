"""The process group: joining it, and this process's place in it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist


def join_group(
    backend: str | None = None, *, timeout: timedelta | None = None, alone: bool = False
) -> None:
    """Join the group whose address and ranks are in the environment, as launchers set them.

    Args:
        backend: of torch; the GPU's or the CPU's if not given.
        timeout: for the start and for each collective operation; torch's if not given.
        alone: make a group of this process only, without an address or a port.
    """
    place: dict[str, Any] = {}
    if alone:
        place = {"store": dist.HashStore(), "rank": 0, "world_size": 1}  # type: ignore[attr-defined]
    backend = backend or ("nccl" if torch.cuda.is_available() else "gloo")
    dist.init_process_group(backend, timeout=timeout, **place)


def world_size() -> int:
    """Processes in the group; 1 without a group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0
