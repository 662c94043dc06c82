"""Batch-norm statistics and other buffers that each process gathers from its own images.

They are not broadcast while training; evaluation and exports use their average over the processes
and a checkpoint keeps each one's own, so that the same number of processes resumes bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ixt.distributed.group import world_size


def float_buffers(model: nn.Module) -> dict[str, Tensor]:
    """The floating-point buffers of a model by name, e.g. running means and variances."""
    return {name: b for name, b in model.named_buffers() if b.is_floating_point()}


@contextmanager
@torch.no_grad()
def averaged(buffers: Mapping[str, Tensor]) -> Iterator[None]:
    """Hold the average over all processes in these buffers for the time of a `with` block.

    Source: timm's distribute_bn(reduce=True), undone afterwards.
    """
    if world_size() == 1 or not buffers:
        yield
        return
    own = {name: buffer.clone() for name, buffer in buffers.items()}
    for buffer in buffers.values():
        dist.all_reduce(buffer)
        buffer /= world_size()
    try:
        yield
    finally:
        for name, buffer in buffers.items():
            buffer.copy_(own[name])


@torch.no_grad()
def gather(buffers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Stack each buffer over the processes: name to (world_size, ...)."""
    if world_size() == 1:
        return {name: buffer.detach()[None].clone() for name, buffer in buffers.items()}
    stacked = {}
    for name, buffer in buffers.items():
        parts = [torch.empty_like(buffer) for _ in range(world_size())]
        dist.all_gather(parts, buffer.contiguous())
        stacked[name] = torch.stack(parts)
    return stacked


@torch.no_grad()
def restore(buffers: Mapping[str, Tensor], stacked: Mapping[str, Tensor], rank: int) -> None:
    """Give each buffer this process's own value again; the average, if the number changed.

    `buffers`, the model's or its EMA's, are written in place; `stacked` is what `gather` gave.
    """
    for name, buffer in buffers.items():
        values = stacked[name]
        same = len(values) == world_size()
        buffer.copy_(values[rank] if same else values.mean(dim=0))
