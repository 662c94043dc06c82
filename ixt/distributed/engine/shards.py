"""Parameters as one process holds them: whole, or the slice that ZeRO-3 leaves with it.

ZeRO-3 cuts each flattened parameter into as many equal slices as there are processes, the last one
padded; DeepSpeed keeps a process's slice as `ds_tensor` beside the empty parameter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from ixt.distributed.group import rank, world_size

Named = dict[str, Tensor]


def are_cut(model: nn.Module) -> bool:
    """Whether the model's parameters are divided over the processes."""
    return any(hasattr(p, "ds_tensor") for p in model.parameters())


def parts(model: nn.Module) -> Named:
    """This process's part of each parameter by name: the live tensors, not copies."""
    return {name: getattr(p, "ds_tensor", p) for name, p in model.named_parameters()}


def gather_rows(part: Tensor, device: torch.device) -> Tensor:
    """Stack a flat tensor over the processes: (world_size, n), on the CPU.

    `part` has the same length in every process; `device` is where the process group can reach
    tensors.
    """
    if world_size() == 1:
        return part.detach().to("cpu", copy=True)[None]
    rows = part.new_empty((world_size(), part.numel()), device=device)
    dist.all_gather(list(rows.unbind()), part.detach().to(device).contiguous())
    return rows.cpu()


def whole(model: nn.Module, held: Mapping[str, Tensor]) -> Named:
    """Put divided tensors together, on the CPU; others come back as they are, not copied.

    Every process must call it.

    `held` has, for names of parameters, this process's part of a value of that parameter (the
    weight itself, an average of it); any other tensor is taken as whole.
    """
    parameters = dict(model.named_parameters())
    return {name: _join(parameters.get(name), tensor) for name, tensor in held.items()}


def part_of(parameter: Tensor, value: Tensor) -> Tensor:
    """This process's part of a whole value of a parameter, laid out as `parts` has it."""
    if not hasattr(parameter, "ds_tensor"):
        return value
    length = parameter.ds_tensor.numel()
    flat = F.pad(value.flatten(), (0, length * world_size() - value.numel()))
    return flat[rank() * length : (rank() + 1) * length]


@contextmanager
def assembled(model: nn.Module) -> Iterator[None]:
    """Have whole parameters in the module within a `with` block; what is written there stays.

    Every process must enter it and write the same.
    """
    if not are_cut(model):
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(model.parameters()), modifier_rank=0):
        yield


def _join(parameter: Tensor | None, part: Tensor) -> Tensor:
    shape: torch.Size | None = getattr(parameter, "ds_shape", None)
    if shape is None:
        return part.detach()
    flat = gather_rows(part, part.device).flatten()
    # A copy: a view would be saved with the padding behind it.
    return flat[: shape.numel()].view(shape).clone()
