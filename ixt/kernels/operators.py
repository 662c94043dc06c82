"""How operators are made of plain functions, and how they treat types and memory orders."""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

library = torch.library.Library("ixt", "FRAGMENT")
twins: dict[str, str] = {}
"""For each operator, the module of `triton_code` that holds its twin."""
_Function = TypeVar("_Function", bound=Callable[..., Any])


def operator(twin: str, mutates: Sequence[str] = ()) -> Callable[[_Function], _Function]:
    """Make a function of plain PyTorch the operator `ixt::NAME`, without a gradient of its own.

    The function computes on a CPU, and in float64; it also shows torch.compile the results' shapes.
    On a CUDA device its twin computes: the function of its name in a module of `triton_code`.

    `twin` names that module, loaded at first use, as Triton may be missing; `mutates` names the
    arguments that are changed in place.
    """

    def define(plain: _Function) -> _Function:
        name = plain.__name__
        twins[name] = twin

        def on_cuda(first: Tensor, *rest: Any) -> Any:
            if not in_triton(first):
                return plain(first, *rest)
            return twin_of(name)(first, *rest)

        library.define(name + torch.library.infer_schema(plain, mutates_args=mutates))
        library.impl(name, plain, "CPU")
        library.impl(name, on_cuda, "CUDA")
        torch.library.register_fake(f"ixt::{name}", plain, lib=library)
        return cast(_Function, getattr(torch.ops.ixt, name).default)

    return define


def twin_of(name: str) -> Callable[..., Any]:
    """The function that computes an operator on a CUDA device."""
    twin: Callable[..., Any] = getattr(
        import_module(f"ixt.kernels.triton_code.{twins[name]}"), name
    )
    return twin


def in_triton(x: Tensor) -> bool:
    """Whether kernels compute with this tensor; PyTorch does otherwise."""
    return x.is_cuda and x.dtype in (torch.float32, torch.float16, torch.bfloat16)


def wide(tensor: Tensor) -> Tensor:
    """The tensor in the type that sums are kept in: fp32, or float64 for float64."""
    return tensor.to(wide_dtype(tensor.dtype))


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """Type of sums over elements of a type."""
    return torch.promote_types(dtype, torch.float32)


def memory_format(x: Tensor) -> torch.memory_format:
    """The order in which the operators keep a (N, C, H, W) tensor: NHWC where channels are dense.

    A tensor that is contiguous in both orders, or in none, counts as NCHW unless its channels are
    neighbours in memory.
    """
    channels_dense = x.stride(1) == 1 and x.shape[1] > 1 and not x.is_contiguous()
    return torch.channels_last if channels_dense else torch.contiguous_format


def like(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """An empty tensor of the shape of x, in the order that the operators keep."""
    return torch.empty_like(x, dtype=dtype, memory_format=memory_format(x))


def ordered(x: Tensor) -> Tensor:
    """The tensor, copied if it is not contiguous in the order that the operators keep."""
    return x.contiguous(memory_format=memory_format(x))


def empty(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Empty tensors of the same shapes, types and, where nothing lies between, memory orders."""
    return [torch.empty_like(t) for t in tensors]
