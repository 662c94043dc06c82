"""A model on the meta device: shapes and types of its weights, and no values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ixt.models.create import create_model

_INITIALISERS = frozenset(
    f"{name}_"
    for name in (
        *("constant", "kaiming_normal", "kaiming_uniform", "normal", "trunc_normal", "uniform"),
        *("add", "clamp", "div", "erfinv", "fill", "mul", "sub", "zero"),
    )
)


def create_empty_model(name: str, **kwargs: Any) -> nn.Module:
    """Build a model whose tensors are on the meta device.

    Args:
        name: for `create_model`, as its other arguments.
        **kwargs: see `create_model`.

    Raises:
        ModelError: the name or an argument is unknown.
    """
    with torch.device("meta"), _Uninitialised():
        return create_model(name, **kwargs)


class _Uninitialised(TorchFunctionMode):
    """Leaves out what only sets values; torch would run most of it in Python, and slowly."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        if getattr(func, "__name__", "") not in _INITIALISERS:
            return func(*args, **given)
        changed = args[0] if args else given["tensor"]
        return changed if changed.is_meta else func(*args, **given)
