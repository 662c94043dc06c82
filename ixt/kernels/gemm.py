"""The MLP of a folded block: its products together with what follows them, or all of it at once.

Four products of `block_mlp.py` are followed by a pass over their result: fc1 by GELU, the gradient
of fc2's input by GELU's slope, fc2 by the residual sum, the gradient of fc1's input by what batch
norm adds to it. Each of them either goes to cuBLAS and leaves that pass to an operator of
`fold.py`, or to one of `triton_code/gemm.py`'s kernels that do both. Results differ in their last
bits, so which of them it is belongs to the recipe.

Where its channels are few enough, an MLP is computed whole (`triton_code/whole.py`). Forward, fc1,
GELU, fc2 and the residual sum are one pass over rows: the activation never reaches memory. Backward
is one pass for the gradients of weights and one for that of the input, which both compute the
activation and the gradient of hidden features themselves; the second also adds what a batch norm in
front of the MLP gives its input.

Operators are plain PyTorch on a CPU and in float64. None has a gradient of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ixt.kernels.fold import (
    norm_grad,
    per_row,
    scaled_add,
    scaled_gelu,
    scaled_gelu_grad,
    scaled_sum,
    wide_product,
)
from ixt.kernels.operators import operator, wide
from ixt.kernels.shapes import fits_whole
from ixt.recipe.model import GemmChoice, GemmProduct, GemmTile, MlpWay

_USUAL: GemmTile = "128x64"
_TILE = ""  # of no meaning to the plain operators


@dataclass(frozen=True)
class Tiles:
    """The tile that computes each product of a block; None for cuBLAS."""

    fc1: GemmTile | None = None
    fc2_grad: GemmTile | None = None
    fc2: GemmTile | None = None
    fc1_grad: GemmTile | None = None
    mlp: MlpWay | None = None
    """How all of them and the other gradients are computed at once, in place of the above."""

    def of_type(self, dtype: torch.dtype) -> Tiles:
        """The tiles for operands of a type: whole MLPs of fp32 would not fit into registers."""
        return replace(self, mlp=None) if dtype == torch.float32 else self


CUBLAS = Tiles()


def chosen_tiles(choice: GemmChoice, channels: int) -> Tiles:
    """The tiles for blocks of this number of channels; auto is cublas until it is resolved."""
    if choice == "triton":
        whole: MlpWay | None = "whole" if fits_whole(channels) else None
        return Tiles(_USUAL, _USUAL, _USUAL, _USUAL, whole)
    if isinstance(choice, str):
        return CUBLAS
    named: Any = {
        name: choice.get(f"{name}-{channels}") for name in (*get_args(GemmProduct), "mlp")
    }
    return Tiles(**named)


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
    """Gradient of h from the product a weight, (rows, K) and (K, N); sums in the wide type.

    The product is the gradient of h's GELU before the scale. The sums over rows are gradients of
    biases: N of the result, K of a times the scale.
    """
    grad, scales = wide(a) @ wide(weight), per_row(scale, len(a))
    out = torch.ops.aten.gelu_backward(grad, wide(hidden)) * scales
    return out.to(hidden.dtype), torch.cat([out.sum(0), (wide(a) * scales).sum(0)])


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
    a: Tensor, weight: Tensor, inputs: Tensor, sums: Tensor, moments: Tensor, eps: float, tile: str
) -> Tensor:
    """`fold.norm_grad` of the product a weight, (rows, K) and (K, N)."""
    product = wide(a) @ wide(weight)
    return norm_grad(product, wide(inputs), sums, moments, eps).to(inputs.dtype)


@operator("whole")
def whole_mlp(
    t: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, x: Tensor, scale: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """X + scale x (GELU(t w1^T + b1) w2^T + b2) in `dtype`.

    t and x are (rows, C), w1 (hidden, C), w2 (C, hidden), b2 of the wide type, scale (N,).
    """
    _, active = product_gelu(t, w1, b1, scale, _TILE)
    return product_add(active, w2, x, b2, scale, dtype, _TILE)


@operator("whole")
def whole_weight_grad(
    grad: Tensor, t: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, scale: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of w1, b1, w2 and b2 in the wide type, from that of `whole_mlp`'s result."""
    small, d_b2 = grad.to(t.dtype), scaled_sum(grad, scale)
    hidden, active = product_gelu(t, w1, b1, scale, _TILE)
    d_hidden, sums = product_gelu_grad(small, w2, hidden, scale, _TILE)
    d_b1 = sums[: len(b1)].clone()
    return wide_product(d_hidden.t(), t), d_b1, wide_product(small.t(), active), d_b2


@operator("whole")
def whole_input_grad(
    grad: Tensor, t: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, scale: Tensor | None,
    sums: Tensor | None, moments: Tensor | None, eps: float,
) -> Tensor:  # fmt: skip
    """Gradient of t from that of `whole_mlp`'s result; with sums and moments, `fold.norm_grad`."""
    hidden, _ = product_gelu(t, w1, b1, scale, _TILE)
    d_hidden, _ = product_gelu_grad(grad.to(t.dtype), w2, hidden, scale, _TILE)
    if sums is None or moments is None:
        return torch.mm(d_hidden, w1)
    return product_norm_grad(d_hidden, w1, t, sums, moments, eps, _TILE)


def expand(
    inputs: Tensor, weight: Tensor, bias: Tensor, scale: Tensor | None, tile: GemmTile | None
) -> tuple[Tensor, Tensor]:
    """The hidden features of rows, and their GELU times each image's scale."""
    if tile is not None:
        return product_gelu(inputs, weight, bias, scale, tile)
    hidden = torch.addmm(bias, inputs, weight.t())
    return hidden, scaled_gelu(hidden, scale)


def expand_grad(
    grad: Tensor, operand: Tensor, weight: Tensor, hidden: Tensor, scale: Tensor | None,
    tile: GemmTile | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients of hidden features and of both biases, from that of the stream.

    The operand is that gradient in the type of the block.
    """
    if tile is not None:
        d_hidden, sums = product_gelu_grad(operand, weight, hidden, scale, tile)
        features = hidden.shape[1]
        return d_hidden, sums[:features], sums[features:]
    d_hidden, d_b1 = scaled_gelu_grad(hidden, torch.mm(operand, weight), scale)
    return d_hidden, d_b1, scaled_sum(grad, scale)


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
    tile: GemmTile | None,
) -> Tensor:  # fmt: skip
    """The gradient of batch norm's inputs, from that of hidden features; see `fold.norm_grad`."""
    if tile is not None:
        return product_norm_grad(grad, weight, inputs, sums, moments, eps, tile)
    return norm_grad(torch.mm(grad, weight), inputs, sums, moments, eps)
