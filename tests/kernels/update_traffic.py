"""What an update does on a CUDA device besides forward and backward pass, counted without one.

Loss and its gradient, clipping, AdamW and EMA. Lists of tensors are cut into launches as ATen's
MultiTensorApply.cuh cuts them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves
from traffic import BATCH, _bytes, _Counter

from ixt.recipe.optim import Optim
from ixt.training.ema import Ema
from ixt.training.optimizer import build_loss, build_optimizer

# Operators over lists of tensors: lists of which they read or write one element each at a time.
_LISTS = {
    "aten::_foreach_norm.Scalar": 1,
    "aten::_foreach_mul_.Tensor": 1,
    "aten::_foreach_add_.Scalar": 1,
    "aten::_foreach_lerp_.Scalar": 2,
    "aten::_fused_adamw_": 4,
}
# Most tensors of a launch, by the number of lists, and most chunks: for CUDA 13, and before.
_MOST = {13: ((770, 448, 336, 252), 2240), 12: ((110, 64, 48, 36), 320)}
_CHUNK = 65536


@dataclass(frozen=True)
class UpdateTraffic:
    """The rest of an update."""

    launches: dict[int, int]
    """By the version of CUDA that PyTorch was built with."""
    bytes_per_parameter: float
    """What all but the loss reads and writes; what is changed in place counts twice."""


def rest_of_update(model: nn.Module, fused: bool = True) -> UpdateTraffic:
    """Count the second update of a model.

    Args:
        model: in training mode; it comes back with fake parameters, of no further use.
        fused: whether AdamW is torch's fused kernel, as in a run; else its operators over lists.
    """
    counts = {}
    with FakeTensorMode() as fake:
        model._apply(lambda tensor: fake.from_tensor(tensor))  # type: ignore[no-untyped-call]
        parameters = list(model.parameters())
        optim = Optim() if fused else Optim(kwargs={"foreach": True})
        optimizer, ema = build_optimizer(model, optim, fused=fused), Ema(model)
        loss_of = build_loss(optim)
        for cuda in (13, *_MOST):
            for parameter in parameters:
                parameter.grad = torch.empty_like(parameter)
            logits = torch.empty(BATCH, 1000, dtype=torch.bfloat16, requires_grad=True)
            targets = torch.empty(BATCH, 1000)
            with _UpdateCounter(cuda) as of_loss:
                loss_of(logits, targets).backward()  # type: ignore[no-untyped-call]
            with _UpdateCounter(cuda) as counter:
                nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
                optimizer.step()
                ema.update(0.9999)
            counts[cuda] = of_loss.launches + counter.launches
    size = sum(parameter.numel() for parameter in parameters)
    return UpdateTraffic(counts, counter.moved / size)


class _UpdateCounter(_Counter):
    def __init__(self, cuda: int) -> None:
        super().__init__()
        self._most = _MOST[cuda]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = super().__torch_dispatch__(func, types, args, kwargs)
        if func.name() in _LISTS:
            tensors, blocks = self._most
            most = tensors[_LISTS[func.name()] - 1]
            self.launches += launches([t.numel() for t in args[0]], most, blocks) - 1
        if func.name() == "aten::_foreach_norm.Scalar":
            self.launches += 1  # adds up each tensor's chunks
        for argument, value in zip(func._schema.arguments, args, strict=False):
            # AdamW's kernel writes gradients only where it takes a scaler's factor off them.
            kept = func.name() == "aten::_fused_adamw_" and argument.name == "grads"
            if argument.alias_info is not None and argument.alias_info.is_write and not kept:
                written = (leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor))
                self.moved += sum(map(_bytes, written))
        return out


def launches(sizes: Sequence[int], most_tensors: int, most_blocks: int) -> int:
    """Launches for lists of tensors of these numbers of elements."""
    done = tensors = blocks = 0
    for size in sizes:
        tensors += 1
        chunks = -(-size // _CHUNK)
        for chunk in range(chunks):
            blocks += 1
            last = chunk == chunks - 1
            if (tensors == most_tensors and last) or blocks == most_blocks:
                done, blocks, tensors = done + 1, 0, 0 if last else 1
    return done + (blocks > 0)
