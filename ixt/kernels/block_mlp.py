"""The MLP of a folded block and its gradients: whole, or product by product.

Matrices of images are (rows, channels), a row per pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ixt.kernels.fold import wide_product
from ixt.kernels.gemm import (
    Tiles,
    contract,
    expand,
    expand_grad,
    inputs_grad,
    whole_input_grad,
    whole_mlp,
    whole_weight_grad,
)


class Between(NamedTuple):
    """What a forward pass leaves for the backward one; nothing if the MLP is computed whole."""

    hidden: Tensor | None
    """Features before GELU, (rows, hidden)."""
    active: Tensor | None
    """Features after it, times the scale."""


class WeightGrads(NamedTuple):
    """Gradients of the folded weights in the wide type."""

    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor
    hidden: Tensor | None
    """That of hidden features, where it is known by now."""


class NormGrad(NamedTuple):
    """What batch norm's backward adds to the gradient of its input; see `fold.norm_grad`."""

    sums: Tensor
    moments: Tensor
    eps: float


@dataclass(frozen=True)
class BlockMlp:
    """The folded weights of an MLP, and who multiplies by them."""

    w1: Tensor
    """(hidden, C)."""
    b1: Tensor
    w2: Tensor
    """(C, hidden)."""
    scale: Tensor | None
    """What each image's branch is multiplied by, (N,)."""
    tiles: Tiles

    def forward(
        self, t: Tensor, b2: Tensor, x: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Between]:
        """The stream x with the MLP of t added, in `dtype`; b2 is of the wide type."""
        tiles = self.tiles
        if tiles.mlp is not None:
            out = whole_mlp(t, self.w1, self.b1, self.w2, b2, x, self.scale, dtype)
            return out, Between(None, None)
        hidden, active = expand(t, self.w1, self.b1, self.scale, tiles.fc1)
        out = contract(active, self.w2, x, b2, self.scale, dtype, tiles.fc2)
        return out, Between(hidden, active)

    def weight_grads(self, grad: Tensor, t: Tensor, between: Between) -> WeightGrads:
        """The gradients of weights from that of the stream, which may be of another type."""
        hidden, active = between
        if hidden is None or active is None:
            whole = whole_weight_grad(grad, t, self.w1, self.b1, self.w2, self.scale)
            return WeightGrads(*whole, None)
        operand = grad.to(t.dtype)
        d_w2 = wide_product(operand.t(), active)
        d_hidden, d_b1, d_b2 = expand_grad(
            grad, operand, self.w2, hidden, self.scale, self.tiles.fc2_grad
        )
        return WeightGrads(wide_product(d_hidden.t(), t), d_b1, d_w2, d_b2, d_hidden)

    def input_grad(
        self, grad: Tensor, t: Tensor, d_hidden: Tensor | None, norm: NormGrad | None
    ) -> Tensor:
        """The gradient of t, with that of hidden features if it is known.

        With `norm` t is the input of a batch norm whose weights are folded, and takes its
        statistics.
        """
        if d_hidden is None:
            finish = (None, None, 0.0) if norm is None else norm
            return whole_input_grad(grad, t, self.w1, self.b1, self.w2, self.scale, *finish)
        if norm is None:
            return torch.mm(d_hidden, self.w1)
        return inputs_grad(d_hidden, self.w1, t, *norm, self.tiles.fc1_grad)
