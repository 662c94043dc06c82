"""The process group: joining it, and this process's place in it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist


def join_group(
    backend: str | None = None, *, timeout: timedelta | None = None, **place: Any
) -> None:
    """Join the process group.

    The `backend` is the GPU's or the CPU's if not given. `timeout` is for the start and for each
    collective operation, torch's if not given. `place` is store, rank and world_size, those of the
    launcher's environment if not given.
    """
    backend = backend or ("nccl" if torch.cuda.is_available() else "gloo")
    dist.init_process_group(backend, timeout=timeout, **place)


def world_size() -> int:
    """Processes in the group; 1 without a group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0
