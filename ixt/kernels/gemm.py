"""Matrix products of a folded block's MLP together with what follows them, and who computes them.

Four products of `folded.py` are followed by a pass over their result: fc1 by GELU, the gradient of
fc2's input by GELU's slope, fc2 by the residual sum, the gradient of fc1's input by what batch norm
adds to it. Each of them either goes to cuBLAS and leaves
that pass to an operator of `fold.py`, or to one of `triton_code/gemm.py`'s kernels that do both.
Results differ in their last bits, so which of them it is belongs to the recipe.

Operators are plain PyTorch on a CPU and in float64. None has a gradient of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ixt.kernels.fold import norm_grad, per_row, scaled_add, scaled_gelu, scaled_gelu_grad
from ixt.kernels.operators import operator, wide
from ixt.recipe.model import GemmChoice, GemmProduct, GemmTile

_USUAL: GemmTile = "128x64"


@dataclass(frozen=True)
class Tiles:
    """The tile that computes each product of a block; None for cuBLAS."""

    fc1: GemmTile | None = None
    fc2_grad: GemmTile | None = None
    fc2: GemmTile | None = None
    fc1_grad: GemmTile | None = None


CUBLAS = Tiles()


def chosen_tiles(choice: GemmChoice, channels: int) -> Tiles:
    """The tiles for blocks of this number of channels; auto is cublas until it is resolved."""
    if choice == "triton":
        return Tiles(_USUAL, _USUAL, _USUAL, _USUAL)
    if isinstance(choice, str):
        return CUBLAS
    return Tiles(**{name: choice.get(f"{name}-{channels}") for name in get_args(GemmProduct)})


@operator("gemm")
def product_gelu(
    a: Tensor, weight: Tensor, bias: Tensor, scale: Tensor | None, tile: str
) -> tuple[Tensor, Tensor]:
    """H = a weight^T + bias, (rows, K) and (N, K); its exact GELU times each image's scale."""
    hidden = (wide(a) @ wide(weight).t() + bias).to(a.dtype)
    return hidden, (F.gelu(wide(hidden)) * per_row(scale, len(a))).to(a.dtype)


@operator("gemm")
def product_gelu_grad(
    a: Tensor, weight: Tensor, hidden: Tensor, scale: Tensor | None, tile: str
) -> tuple[Tensor, Tensor]:
    """Gradient of h from the product a weight, (rows, K) and (K, N); its sum in the wide type.

    The product is the gradient of h's GELU before the scale. The sum over rows is that of a bias.
    """
    grad = wide(a) @ wide(weight)
    out = torch.ops.aten.gelu_backward(grad, wide(hidden)) * per_row(scale, len(a))
    return out.to(hidden.dtype), out.sum(0)


@operator("gemm")
def product_add(
    a: Tensor, weight: Tensor, x: Tensor, bias: Tensor, scale: Tensor | None, dtype: torch.dtype,
    tile: str,
) -> Tensor:  # fmt: skip
    """X + a weight^T + scale x bias in `dtype`: (rows, K), (N, K), bias (N,) in the wide type."""
    product = wide(a) @ wide(weight).t()
    return (product + wide(x) + per_row(scale, len(a)) * bias).to(dtype)


@operator("gemm")
def product_norm_grad(
    a: Tensor, weight: Tensor, inputs: Tensor, sums: Tensor, moments: Tensor, eps: float,
    count: float, tile: str,
) -> Tensor:  # fmt: skip
    """`fold.norm_grad` of the product a weight, (rows, K) and (K, N)."""
    product = wide(a) @ wide(weight)
    return norm_grad(product, wide(inputs), sums, moments, eps, count).to(inputs.dtype)


def expand(
    inputs: Tensor, weight: Tensor, bias: Tensor, scale: Tensor | None, tile: GemmTile | None
) -> tuple[Tensor, Tensor]:
    """The hidden features of rows, and their GELU times each image's scale."""
    if tile is not None:
        return product_gelu(inputs, weight, bias, scale, tile)
    hidden = torch.addmm(bias, inputs, weight.t())
    return hidden, scaled_gelu(hidden, scale)


def expand_grad(
    grad: Tensor, weight: Tensor, hidden: Tensor, scale: Tensor | None, tile: GemmTile | None
) -> tuple[Tensor, Tensor]:
    """The gradient of hidden features and its sum, from that of what `contract` multiplied."""
    if tile is not None:
        return product_gelu_grad(grad, weight, hidden, scale, tile)
    return scaled_gelu_grad(hidden, torch.mm(grad, weight), scale)


def contract(
    active: Tensor, weight: Tensor, x: Tensor, bias: Tensor, scale: Tensor | None,
    dtype: torch.dtype, tile: GemmTile | None,
) -> Tensor:  # fmt: skip
    """The stream x with the product and each image's share of the bias added."""
    if tile is not None:
        return product_add(active, weight, x, bias, scale, dtype, tile)
    return scaled_add(torch.mm(active, weight.t()), x, bias, scale, dtype)


def inputs_grad(
    grad: Tensor, weight: Tensor, inputs: Tensor, sums: Tensor, moments: Tensor, eps: float,
    count: float, tile: GemmTile | None,
) -> Tensor:  # fmt: skip
    """The gradient of batch norm's inputs, from that of hidden features; see `fold.norm_grad`."""
    if tile is not None:
        return product_norm_grad(grad, weight, inputs, sums, moments, eps, count, tile)
    return norm_grad(torch.mm(grad, weight), inputs, sums, moments, eps, count)
