"""Undoing an update whose loss or gradient is not finite, without a wait for the device.

The state of before is copied on the device, and chosen there in place of the new one where that is
broken. The same choice is made by all processes, under any engine and optimizer. What optimizers
keep on the host (step counts) is put right one update later, when the choice has long arrived.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ixt.distributed import engine
from ixt.distributed.engine import optimizer_state
from ixt.distributed.engine.shards import parts
from ixt.distributed.group import world_size
from ixt.training.ema import Ema


class Undo:
    """Undoes an update that is not finite; every process calls its methods around each update."""

    def __init__(
        self, accelerator: Any, model: nn.Module, optimizer: torch.optim.Optimizer, ema: Ema | None
    ) -> None:
        """Take part."""
        self._accelerator, self._model, self._optimizer = accelerator, model, optimizer
        self._ema = ema
        self._device: torch.device = accelerator.device
        self._room: dict[Any, Tensor] = {}
        self._before: dict[Any, Tensor] = {}
        self._host: dict[int, tuple[dict[str, Any], set[str], dict[str, Any]]] = {}
        """Keys and host numbers of the optimizer's dictionaries, by the dictionary's identity."""
        self.undone = torch.zeros((), device=self._device)
        """Whether the last update was undone, on the device: 1 if so."""
        self._broken: Tensor | None = None
        self._arrived: torch.cuda.Event | None = None

    @torch.no_grad()
    def remember(self) -> None:
        """Copy the state on the device, before an update's first forward pass."""
        live = self._live()
        for key, tensor in live.items():
            if key not in self._room:
                self._room[key] = torch.empty_like(tensor)
        self._before = {key: self._room[key] for key in live}
        torch._foreach_copy_(list(self._before.values()), list(live.values()))

    def finish_previous(self) -> None:
        """Finish the previous update: if it was undone, restore the numbers that the host keeps.

        Call it after the forward pass, which keeps the device busy meanwhile, and before the
        optimizer steps; and before the state is saved.
        """
        if self._is_broken():
            for values in self._dicts():
                _, keys, numbers = self._host.get(id(values), (values, set(), {}))
                for key in values.keys() - keys:
                    del values[key]  # the broken update created it
                values.update(numbers)
        self._host = {
            id(values): (values, set(values), self._numbers(values)) for values in self._dicts()
        }

    @torch.no_grad()
    def unless_finite(self, loss: Tensor) -> None:
        """Undo the update if its loss, or the state that it led to, is not finite.

        All processes decide the same, which `undone` holds.

        The loss is this process's, 0-d.
        """
        live = self._live()
        numbers = [t for t in live.values() if t.is_floating_point() and t.numel()]
        largest = torch._foreach_norm(numbers, float("inf"))
        sizes = torch.stack([loss.float(), *(n.to(self._device).float() for n in largest)])
        broken = (~sizes.isfinite().all()).float()
        if world_size() > 1:
            dist.all_reduce(broken, op=dist.ReduceOp.MAX)
        for key, before in self._before.items():
            here = broken.to(before.device, non_blocking=True) > 0
            live[key].copy_(torch.where(here, before, live[key]))
        engine.drop_gathered(self._accelerator)
        self._send(broken)
        self.undone = broken

    def _live(self) -> dict[Any, Tensor]:
        """Every tensor on the device that an update changes (this process's part), by its place.

        Identity would not do: some optimizers put new tensors into the old places.
        """
        live: dict[Any, Tensor] = dict(parts(self._model))
        live |= {("buffer", name): tensor for name, tensor in self._model.named_buffers()}
        if self._ema is not None:
            live |= {("ema", name): tensor for name, tensor in self._ema.tensors.items()}
        masters = optimizer_state.masters(self._model, self._optimizer)
        live |= {("master", number): tensor for number, tensor in enumerate(masters)}
        for number, values in enumerate(self._dicts()):
            for key, value in values.items():
                if isinstance(value, Tensor) and not _is_of_host(value, self._device):
                    live[number, key] = value
        return live

    def _dicts(self) -> list[dict[str, Any]]:
        """What the optimizer keeps for each group, and for each parameter."""
        inner = optimizer_state.base(self._optimizer)
        return [*inner.param_groups, *inner.state.values()]

    def _numbers(self, values: dict[str, Any]) -> dict[str, Any]:
        """Copies of what one of these dictionaries holds on the host."""
        return {
            key: copy.deepcopy(value)
            for key, value in values.items()
            if key != "lr" and _is_of_host(value, self._device)  # set anew for each update
        }

    def _send(self, broken: Tensor) -> None:
        """Copy the choice to the host."""
        self._broken = broken.to("cpu", non_blocking=True)  # into pinned memory, from a GPU
        if broken.is_cuda:
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()

    def _is_broken(self) -> bool:
        if self._broken is None:
            return False
        if self._arrived is not None:
            self._arrived.synchronize()
        broken, self._broken = bool(self._broken), None
        return broken


def _is_of_host(value: Any, device: torch.device) -> bool:
    """Whether an optimizer's value is out of the device's reach, such as a count on the CPU."""
    if isinstance(value, Tensor):
        return value.device.type == "cpu" and device.type != "cpu" and value.dim() == 0
    return isinstance(value, int | float)
