"""Launches of operators over lists of tensors, cut as ATen's MultiTensorApply.cuh cuts them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

# Operators, and the number of lists of which they read or write one element each at a time.
_LISTS = {
    "aten::_foreach_norm": 1,
    "aten::_foreach_mul_": 1,
    "aten::_foreach_add_": 1,
    "aten::_foreach_lerp_": 2,
    "aten::_fused_adamw_": 4,
}
Cuda = Literal[12, 13]
# Most tensors of a launch, by the number of lists, and most chunks.
_MOST: dict[Cuda, tuple[tuple[int, ...], int]] = {
    13: ((770, 448, 336, 252), 2240),
    12: ((110, 64, 48, 36), 320),
}
_CHUNK = 65536  # elements


def list_launches(operator: str, args: Sequence[Any], cuda: Cuda = 13) -> int:
    """Kernels of an operator; 1 of any that is not over lists.

    Args:
        operator: its name without overload, e.g. aten::_foreach_mul_.
        args: what it was given, the first list first.
        cuda: version that PyTorch was built with: the arguments of a launch have more room in 13.
    """
    if operator not in _LISTS:
        return 1
    tensors, chunks = _MOST[cuda]
    count = cut([t.numel() for t in args[0]], tensors[_LISTS[operator] - 1], chunks)
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
