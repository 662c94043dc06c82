"""How operators without gradients of their own are made, and in which type they keep sums."""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ixt.kernels.bands import in_triton

_library = torch.library.Library("ixt", "FRAGMENT")


def operator(
    schema: str, plain: Callable[..., Any], fused: Callable[..., Any], fake: Callable[..., Any]
) -> Any:
    """Define an operator `ixt::...` and return it.

    Args:
        schema: in torch's language, without the namespace.
        plain: computes it in PyTorch.
        fused: computes it on a CUDA device, where the first tensor is one that kernels take.
        fake: gives results without values.
    """
    name = schema.split("(")[0]

    def on_cuda(first: Tensor, *rest: Any) -> Any:
        return (fused if in_triton(first) else plain)(first, *rest)

    _library.define(schema)
    _library.impl(name, plain, "CPU")
    _library.impl(name, on_cuda, "CUDA")
    torch.library.register_fake(f"ixt::{name}", fake, lib=_library)
    return getattr(torch.ops.ixt, name)


def wide(tensor: Tensor) -> Tensor:
    """In the type that sums are kept in: fp32, or float64 for float64."""
    return tensor.to(wide_dtype(tensor.dtype))


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """Type of sums over elements of a type."""
    return torch.promote_types(dtype, torch.float32)
