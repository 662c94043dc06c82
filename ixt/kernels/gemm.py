"""Matrix products of a folded block's MLP together with what follows them, and who computes them.

Three products of `folded.py` are followed by a pass over their result: fc1 by GELU, the gradient of
fc2's input by GELU's slope, fc2 by the residual sum. Each of them either goes to cuBLAS and leaves
that pass to an operator of `fold.py`, or to one of `triton_gemm.py`'s kernels that do both. Results
differ in their last bits, so which of them it is belongs to the recipe.

Operators are plain PyTorch on a CPU and in float64. None has a gradient of its own.
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from dataclasses import dataclass
from typing import cast, get_args

import torch
from torch import Tensor

from ixt.kernels.fold import per_row, scaled_add, scaled_gelu, scaled_gelu_grad
from ixt.kernels.operators import operator, wide, wide_dtype
from ixt.recipe.model import GemmChoice, GemmProduct, GemmTile


@dataclass(frozen=True)
class Tile:
    """How much of a result a program computes, and with what."""

    rows: int
    columns: int
    depth_bytes: int
    """Of a row of either operand, loaded at a time."""
    warps: int
    stages: int
    """Loads under way at a time."""


# In bf16 and fp16, one program of the first fits on a multiprocessor of an A100 or H100, of the
# others two and more.
TILES: dict[GemmTile, Tile] = {
    "128x128": Tile(128, 128, 128, 8, 4),
    "128x64": Tile(128, 64, 128, 8, 3),
    "128x64s": Tile(128, 64, 64, 8, 4),
    "64x64": Tile(64, 64, 64, 4, 4),
}
_USUAL: GemmTile = "128x64"


@dataclass(frozen=True)
class Tiles:
    """The tile that computes each product of a block; None for cuBLAS."""

    fc1: GemmTile | None = None
    fc2_grad: GemmTile | None = None
    fc2: GemmTile | None = None


CUBLAS = Tiles()


def chosen_tiles(choice: GemmChoice, channels: int) -> Tiles:
    """The tiles of blocks of so many channels; auto is cublas until it is settled."""
    if choice == "triton":
        return Tiles(_USUAL, _USUAL, _USUAL)
    if isinstance(choice, str):
        return CUBLAS
    return Tiles(**{name: choice.get(f"{name}-{channels}") for name in get_args(GemmProduct)})


def _gelu_plain(
    a: Tensor, weight: Tensor, bias: Tensor, scale: Tensor | None, tile: GemmTile
) -> tuple[Tensor, Tensor]:
    hidden = (wide(a) @ wide(weight).t() + bias).to(a.dtype)
    active = torch.nn.functional.gelu(wide(hidden)) * per_row(scale, len(a))
    return hidden, active.to(a.dtype)


def _gelu_fused(
    a: Tensor, weight: Tensor, bias: Tensor, scale: Tensor | None, tile: GemmTile
) -> tuple[Tensor, Tensor]:
    from ixt.kernels import triton_gemm

    hidden, active = _gelu_fake(a, weight, bias, scale, tile)
    triton_gemm.product_gelu(a, weight, bias, hidden, active, scale, tile)
    return hidden, active


def _gelu_fake(
    a: Tensor, weight: Tensor, bias: Tensor, scale: Tensor | None, tile: GemmTile
) -> tuple[Tensor, Tensor]:
    size = (a.shape[0], weight.shape[0])
    return a.new_empty(size), a.new_empty(size)


product_gelu = operator(
    "product_gelu(Tensor a, Tensor weight, Tensor bias, Tensor? scale, str tile) "
    "-> (Tensor, Tensor)",
    _gelu_plain, _gelu_fused, _gelu_fake,
)  # fmt: skip
"""h = a weight^T + bias of (rows, K) and (N, K), and GELU(h), exact, times each image's scale."""


def _gelu_grad_plain(
    a: Tensor, weight: Tensor, hidden: Tensor, scale: Tensor | None, tile: GemmTile
) -> tuple[Tensor, Tensor]:
    grad = wide(a) @ wide(weight)
    out = torch.ops.aten.gelu_backward(grad, wide(hidden)) * per_row(scale, len(a))
    return out.to(hidden.dtype), out.sum(0)


def _gelu_grad_fused(
    a: Tensor, weight: Tensor, hidden: Tensor, scale: Tensor | None, tile: GemmTile
) -> tuple[Tensor, Tensor]:
    from ixt.kernels import triton_gemm

    out = torch.empty_like(hidden)
    return out, triton_gemm.product_gelu_grad(a, weight, hidden, out, scale, tile)


product_gelu_grad = operator(
    "product_gelu_grad(Tensor a, Tensor weight, Tensor hidden, Tensor? scale, str tile) "
    "-> (Tensor, Tensor)",
    _gelu_grad_plain, _gelu_grad_fused,
    lambda a, weight, hidden, scale, tile: (
        torch.empty_like(hidden),
        hidden.new_empty(hidden.shape[1], dtype=wide_dtype(hidden.dtype)),
    ),
)  # fmt: skip
"""Gradient of h from the product a weight, (rows, K) and (K, N), that is the gradient of its GELU
before the scale; and its sum over rows in the wide type."""


def _add_plain(
    a: Tensor, weight: Tensor, x: Tensor, bias: Tensor, scale: Tensor | None,
    dtype: torch.dtype, tile: GemmTile,
) -> Tensor:  # fmt: skip
    product = wide(a) @ wide(weight).t()
    return (product + wide(x) + per_row(scale, len(a)) * bias).to(dtype)


def _add_fused(
    a: Tensor, weight: Tensor, x: Tensor, bias: Tensor, scale: Tensor | None,
    dtype: torch.dtype, tile: GemmTile,
) -> Tensor:  # fmt: skip
    from ixt.kernels import triton_gemm

    out = torch.empty_like(x, dtype=dtype)
    triton_gemm.product_add(a, weight, x, bias, out, scale, tile)
    return out


product_add = operator(
    "product_add(Tensor a, Tensor weight, Tensor x, Tensor bias, Tensor? scale, "
    "ScalarType dtype, str tile) -> Tensor",
    _add_plain, _add_fused,
    lambda a, weight, x, bias, scale, dtype, tile: torch.empty_like(x, dtype=dtype),
)  # fmt: skip
"""x + a weight^T + scale x bias in `dtype`: (rows, K), (N, K), bias (N,) in the wide type."""


def expand(
    inputs: Tensor, weight: Tensor, bias: Tensor, scale: Tensor | None, tile: GemmTile | None
) -> tuple[Tensor, Tensor]:
    """The hidden features of rows, and their GELU times each image's scale."""
    if tile is not None:
        return cast(tuple[Tensor, Tensor], product_gelu(inputs, weight, bias, scale, tile))
    hidden = torch.addmm(bias, inputs, weight.t())
    return hidden, scaled_gelu(hidden, scale)


def expand_grad(
    grad: Tensor, weight: Tensor, hidden: Tensor, scale: Tensor | None, tile: GemmTile | None
) -> tuple[Tensor, Tensor]:
    """The gradient of hidden features and its sum, from that of what `contract` multiplied."""
    if tile is not None:
        out = product_gelu_grad(grad, weight, hidden, scale, tile)
    else:
        out = scaled_gelu_grad(hidden, torch.mm(grad, weight), scale)
    return cast(tuple[Tensor, Tensor], out)


def contract(
    active: Tensor, weight: Tensor, x: Tensor, bias: Tensor, scale: Tensor | None,
    dtype: torch.dtype, tile: GemmTile | None,
) -> Tensor:  # fmt: skip
    """The stream x with the product and each image's share of the bias added."""
    if tile is not None:
        out = product_add(active, weight, x, bias, scale, dtype, tile)
    else:
        out = scaled_add(torch.mm(active, weight.t()), x, bias, scale, dtype)
    return cast(Tensor, out)
