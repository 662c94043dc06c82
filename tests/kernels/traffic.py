"""Operators and bytes of a training step in eager mode, counted on tensors without values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

BATCH = 128

# Operators of ixt that are more than one kernel.
_KERNELS = {
    "ixt::bands_moments": 3,
    "ixt::bands_norm_weight_grad": 2,
    "ixt::bands_weight_grad": 2,
    "ixt::product_gelu_grad": 2,
    "ixt::scaled_gelu_grad": 2,
    "ixt::scaled_sum": 2,
    "ixt::unfold_norm": 2,
    "ixt::whole_input_grad": 2,
    "ixt::whole_weight_grad": 2,
}


# Operators that make room and leave it as it is.
_ROOM = (torch.ops.aten.new_empty.default, torch.ops.aten.empty_like.default)


@dataclass(frozen=True)
class Traffic:
    """A forward and a backward pass."""

    launches: int
    """Operators that write memory, by their kernels where those are ixt's own, and a pass for each
    bias that a convolution adds."""
    mb_per_image: float
    """What they read and write, each operand once, in 1e6 bytes per image."""


def training_traffic(model: nn.Module, image_size: int) -> Traffic:
    """Count a step in NHWC under autocast to bf16.

    A lower bound: an operator is taken for one kernel that moves its operands and results once.
    Weights' share is that of a batch of 128.

    Args:
        model: in training mode; it comes back with fake parameters, of no further use.
        image_size: side of the square images, in pixels.
    """
    counter = _Counter()
    model.to(memory_format=torch.channels_last)
    with FakeTensorMode() as fake:
        model._apply(lambda tensor: fake.from_tensor(tensor))  # type: ignore[no-untyped-call]
        images = torch.empty(BATCH, 3, image_size, image_size)
        images = images.contiguous(memory_format=torch.channels_last)
        with counter:
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(images).float().sum()
            loss.backward()
    return Traffic(counter.launches, counter.moved / BATCH / 1e6)


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.launches = 0
        self.moved = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        operands, results = _tensors(args), _tensors(out)
        memory = {_memory(tensor) for tensor in operands}
        writes = func._schema.is_mutable or any(_memory(t) not in memory for t in results)
        if writes and not func.is_view and func not in _ROOM:
            self.launches += _KERNELS.get(func.name(), 1)
            self.moved += sum(map(_bytes, {id(t): t for t in (*operands, *results)}.values()))
            if func is torch.ops.aten.convolution.default and args[2] is not None:
                self.launches += 1
                self.moved += 2 * _bytes(out)
        return out


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _memory(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _bytes(tensor: Tensor) -> int:
    """Of the elements that differ: an expanded tensor is read as what it was expanded from."""
    seen = [n for n, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride]
    return int(torch.Size(seen).numel()) * tensor.element_size()
