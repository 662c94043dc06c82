"""Operators and bytes of a training step in eager mode, counted on tensors without values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ixt.bench.count.layers import Layers, Place
from ixt.bench.count.operations import Products, products_of

BATCH = 128

# Operators of ixt that are more than one kernel.
_KERNELS = {
    "ixt::bands_moments": 3,
    "ixt::bands_weight_grad": 2,
    "ixt::product_gelu_grad": 2,
    "ixt::scaled_gelu_grad": 2,
    "ixt::scaled_sum": 2,
    "ixt::unfold_weights": 2,
    "ixt::whole_weight_grad": 2,
}

# Operators over lists of tensors, and the number of lists of which they read or write one element
# each at a time. ATen's MultiTensorApply.cuh cuts them into launches of at most so many tensors, by
# the number of lists, and chunks; these are those of PyTorch for CUDA 13.
_LISTS = {
    "aten::_foreach_norm": 1,
    "aten::_foreach_mul_": 1,
    "aten::_foreach_add_": 1,
    "aten::_foreach_lerp_": 2,
    "aten::_fused_adamw_": 4,
}
_MOST_TENSORS, _MOST_CHUNKS = (770, 448, 336, 252), 2240
_CHUNK = 65536  # elements

# Operators that make room, or look at it in another way, and leave it as it is.
_ROOM = (
    torch.ops.aten.as_strided_.default,
    torch.ops.aten.empty.memory_format,
    torch.ops.aten.empty_like.default,
    torch.ops.aten.new_empty.default,
)

# Operators whose first operand is written and not read.
_FILLING = ("aten::bernoulli_", "aten::copy_", "aten::fill_", "aten::zero_")


@dataclass(frozen=True)
class Counted:
    """One operator of a step that writes memory."""

    place: Place
    """The pass and the layer that it belongs to."""
    operator: str
    """Its name, e.g. aten::convolution."""
    launches: int
    """Its kernels."""
    moved_bytes: int
    """What it reads and writes: each operand once, and twice if it is changed in place."""
    products: Products
    """What it multiplies."""


def faked(model: nn.Module, batch: int, image_size: int) -> Tensor:
    """Take the values from a model, in a `FakeTensorMode`; a batch of images without values."""
    model._apply(lambda t: torch.empty_strided(t.shape, t.stride(), dtype=t.dtype))  # type: ignore[no-untyped-call]
    return torch.empty(batch, 3, image_size, image_size)


class Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every operator that writes memory, and where it belongs."""

    def __init__(self, layers: Layers | None = None) -> None:
        """Note nothing yet.

        Args:
            layers: say where an operator belongs; None where that does not matter.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.counted: list[Counted] = []
        self._layers = layers or Layers()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Carry an operator out, and note it."""
        out = func(*args, **(kwargs or {}))
        operands, results = _tensors((args, kwargs)), _tensors(out)
        memory = {_memory(tensor) for tensor in operands}
        writes = func._schema.is_mutable or any(_memory(t) not in memory for t in results)
        if writes and not func.is_view and func not in _ROOM:
            name = func.name().split(".")[0]
            launches = _KERNELS.get(name) or _list_launches(name, args)
            touched = {id(t): t for t in (*operands, *results)}.values()
            moved = sum(map(_bytes, (*touched, *_changed(func, args))))
            if func is torch.ops.aten.convolution.default and args[2] is not None:
                launches += 1
                moved += 2 * _bytes(out)
            place, products = self._layers.place(), products_of(func, args, out)
            self.counted.append(Counted(place, name, launches, moved, products))
        return out


def _list_launches(operator: str, args: Sequence[Any]) -> int:
    """Kernels of an operator; 1 of any that is not over lists."""
    if operator not in _LISTS:
        return 1
    most = _MOST_TENSORS[_LISTS[operator] - 1]
    count = cut([t.numel() for t in args[0]], most, _MOST_CHUNKS)
    return count + (operator == "aten::_foreach_norm")  # adds up each tensor's chunks


def cut(sizes: Sequence[int], most_tensors: int, most_chunks: int) -> int:
    """Launches for lists of tensors of these numbers of elements."""
    done = tensors = chunks = 0
    for size in sizes:
        tensors += 1
        own = -(-size // _CHUNK)
        for chunk in range(own):
            chunks += 1
            last = chunk == own - 1
            if (tensors == most_tensors and last) or chunks == most_chunks:
                done, chunks, tensors = done + 1, 0, 0 if last else 1
    return done + (chunks > 0)


def _changed(func: Any, args: tuple[Any, ...]) -> list[Tensor]:
    """What an operator reads and then writes in the same place."""
    if func.name().split(".")[0] in _FILLING:
        return []
    # AdamW's kernel changes gradients only to take a scale off, which there is none of.
    written = [
        argument.alias_info is not None
        and argument.alias_info.is_write
        and argument.name != "grads"
        for argument in func._schema.arguments
    ]
    return _tensors([given for given, is_written in zip(args, written, strict=False) if is_written])


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _memory(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _bytes(tensor: Tensor) -> int:
    """Of the elements that differ: an expanded tensor is read as what it was expanded from."""
    seen = [n for n, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride]
    return int(torch.Size(seen).numel()) * tensor.element_size()
