"""The optimizer's state by parameter name, whatever engine steps it.

Under DDP and ZeRO-0 torch's optimizer has the model's parameters. ZeRO 1 to 3 give it flat
tensors instead: each holds one process's part of a group's parameters laid end to end, and so does
each moment in its state. Here the flat tensors are put together and cut up by parameter.

DeepSpeed 0.19's own accessors (safe_get_full_optimizer_state and its kin) do not suffice: they fail
where ZeRO 1 or 2 linked its groups before they had a state, do not pad under ZeRO-3, cannot make
the state that a resumed run has not got yet, and cost a collective per parameter and moment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ixt.distributed.engine.shards import gather_rows
from ixt.distributed.group import rank, world_size

State = dict[str, dict[str, Any]]
"""Parameter name to what the optimizer keeps for it: moments, step counts."""


@dataclass(frozen=True)
class _Slot:
    """Where one parameter lies in the rows that all processes' flat tensors form."""

    name: str
    shape: torch.Size
    offset: int
    """Where it begins: in a row (`width` given), or in the rows laid end to end."""
    width: int | None
    """Columns under ZeRO-3, where every process has a slice of each parameter, the last padded."""

    def view(self, rows: Tensor) -> Tensor:
        """The elements of the parameter, and its padding, in rows of shape (world_size, n)."""
        if self.width is not None:
            return rows[:, self.offset : self.offset + self.width]
        return rows.view(-1)[self.offset : self.offset + self.shape.numel()]


@dataclass(frozen=True)
class _Flat:
    """One flat tensor of the optimizer, the number of its group, and what lies in it."""

    tensor: Tensor
    group: int
    slots: tuple[_Slot, ...]


def read(
    model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device
) -> tuple[State, list[dict[str, Any]]]:
    """Take the state apart by parameter, and the groups' settings. Every process must call it.

    `model` is the plain module, which names the parameters; `device` is where the process group can
    reach tensors.
    """
    flats = _flats(model, optimizer)
    inner = base(optimizer)
    groups = [{k: v for k, v in g.items() if k != "params"} for g in inner.param_groups]
    if flats is None:
        return {
            name: dict(inner.state[p]) for name, p in model.named_parameters() if p in inner.state
        }, groups
    state: State = {}
    for flat in flats:
        for key, value in inner.state.get(flat.tensor, {}).items():
            if isinstance(value, Tensor) and value.shape == flat.tensor.shape:
                rows = gather_rows(value, device)
                for slot in flat.slots:
                    elements = slot.view(rows).reshape(-1)[: slot.shape.numel()]
                    state.setdefault(slot.name, {})[key] = elements.view(slot.shape).clone()
            else:
                for slot in flat.slots:
                    state.setdefault(slot.name, {})[key] = value
    return state, groups


def write(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Mapping[str, Any]],
    groups: list[dict[str, Any]],
) -> None:
    """Put back what `read` gave, under this or another engine, on any number of processes.

    torch's own `load_state_dict` places and casts each value, and leaves it in the memory order
    that it has. Fused kernels read a parameter and its moments side by side, as they lie.

    Raises:
        KeyError: the state has a parameter that the model lacks, or lacks one that it has.
        ValueError: the groups differ, or a value does not fit its parameter.
    """
    flats = _flats(model, optimizer)
    inner = base(optimizer)
    with _filled_groups(inner, flats):
        own = inner.state_dict()["param_groups"]
        for group, values in zip(own, groups, strict=True):
            # Whether its steps can be recorded is a matter of this run, not of the saved one.
            group |= {key: value for key, value in values.items() if key != "capturable"}
        if flats is None:
            parameters = dict(model.named_parameters())
            held: dict[Tensor, dict[str, Any]] = {
                parameters[name]: dict(values) for name, values in state.items()
            }
        else:  # nothing is kept before the first step
            held = {flat.tensor: _state_of(flat, state) for flat in flats if state}
        order = [p for group in inner.param_groups for p in group["params"]]
        numbered = {n: held[p] for n, p in enumerate(order) if p in held}
        inner.load_state_dict({"state": numbered, "param_groups": own})
        for parameter, values in inner.state.items():
            values |= {key: _laid_out(value, parameter) for key, value in values.items()}


def _laid_out(value: Any, parameter: Tensor) -> Any:
    """A moment in its parameter's memory order; anything else as it is."""
    if not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    return torch.empty_like(parameter, dtype=value.dtype, device=value.device).copy_(value)


def refresh_masters(optimizer: torch.optim.Optimizer) -> None:
    """Copy weights that were loaded into the model to the copies that ZeRO steps."""
    zero = _unwrapped(optimizer)
    if hasattr(zero, "refresh_fp32_params"):
        zero.refresh_fp32_params()


def base(optimizer: Any) -> Any:
    """Torch's optimizer below all wrappers."""
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer


def masters(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The copies of weights that ZeRO 1 to 3 step in this process: live tensors, none elsewhere."""
    return [flat.tensor for flat in _flats(model, optimizer) or ()]


def _unwrapped(optimizer: Any) -> Any:
    """Without Accelerate's wrapper: torch's optimizer, or DeepSpeed's over it."""
    return getattr(optimizer, "optimizer", optimizer)


def _flats(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[_Flat] | None:
    """The flat tensors that ZeRO 1 to 3 step, as DeepSpeed 0.19 lays them out; else None."""
    zero = _unwrapped(optimizer)
    widths: list[list[Any]]
    if hasattr(zero, "fp32_partitioned_groups_flat"):  # ZeRO-3
        tensors, layout = zero.fp32_partitioned_groups_flat, zero.fp16_groups
        groups = zero.sub_group_to_group_id
        widths = [[p.ds_tensor.numel() for p in parameters] for parameters in layout]
        offsets = [list(accumulate(row[:-1], initial=0)) for row in widths]
    elif hasattr(zero, "single_partition_of_fp32_groups"):  # ZeRO-1, ZeRO-2
        tensors, layout = zero.single_partition_of_fp32_groups, zero.round_robin_bit16_groups
        groups, offsets = range(len(tensors)), zero.round_robin_bit16_offsets
        widths = [[None] * len(parameters) for parameters in layout]
    else:
        return None
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [
        _Flat(
            tensor,
            groups[number],
            tuple(
                _Slot(names[id(p)], getattr(p, "ds_shape", p.shape), offset, width)
                for p, offset, width in zip(
                    layout[number], offsets[number], widths[number], strict=True
                )
            ),
        )
        for number, tensor in enumerate(tensors)
    ]


@contextmanager
def _filled_groups(base: Any, flats: list[_Flat] | None) -> Iterator[None]:
    """Have the flat tensors in torch's groups, where ZeRO-3 puts them for the step alone."""
    empty = flats is not None and not any(group["params"] for group in base.param_groups)
    if not empty:
        yield
        return
    assert flats is not None
    for flat in flats:
        base.param_groups[flat.group]["params"].append(flat.tensor)
    try:
        yield
    finally:
        for group in base.param_groups:
            group["params"] = []


def _state_of(flat: _Flat, state: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    first = flat.slots[0]
    values: dict[str, Any] = {}
    for key, value in state[first.name].items():
        if not isinstance(value, Tensor):
            values[key] = value
        elif value.shape == first.shape:
            values[key] = _pack(flat, key, state)
        else:
            # A step count. Two flat tensors that shared it would count each other's steps.
            values[key] = value.clone()
    return values


def _pack(flat: _Flat, key: str, state: Mapping[str, Mapping[str, Any]]) -> Tensor:
    rows = torch.zeros((world_size(), flat.tensor.numel()))
    for slot in flat.slots:
        value = state[slot.name][key].flatten()
        target = slot.view(rows)
        target.copy_(F.pad(value, (0, target.numel() - value.numel())).view(target.shape))
    return rows[rank()].clone()
