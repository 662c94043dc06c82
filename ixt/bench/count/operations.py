"""The operations of one operator: torch's formulas, and those of ixt's own operators.

They are those that are carried out: a product that a backward pass computes again counts each time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import conv_flop, flop_registry

_ATEN = torch.ops.aten


class Products(NamedTuple):
    """What an operator multiplies and adds up."""

    flops: float = 0.0
    """Operations; a multiply-accumulate is 2."""
    depthwise: bool = False
    """Whether no tensor core takes them."""


def products_of(func: Any, args: Sequence[Any], out: Any) -> Products:
    """Operations of an operator that convolves or multiplies matrices; none of any other.

    Raises:
        KeyError: it is an operator of ixt that is not listed here.
    """
    if func.namespace == "ixt":
        return _OWN[func._opname](args)
    packet = func.overloadpacket
    if packet is _ATEN.convolution:
        return Products(_convolution(args[0], args[1], out, args[6]), _is_depthwise(args[1]))
    if packet is _ATEN.convolution_backward:
        grad, images, weight, *_, mask = args
        # Either gradient has as many as the forward pass. torch's formula takes that of a grouped
        # weight for that of a full one.
        passes = mask[0] + mask[1]
        return Products(passes * _convolution(images, weight, grad, args[7]), _is_depthwise(weight))
    if packet in flop_registry:
        return Products(float(flop_registry[packet](*args, out_val=out)))
    return Products()


def _convolution(images: Tensor, weight: Tensor, out: Tensor, transposed: bool) -> float:
    return float(conv_flop(images, weight, None, None, None, None, transposed, out_val=out))


def _is_depthwise(weight: Tensor) -> bool:
    return weight.shape[1] == 1 < weight.shape[0]


def _bands(args: Sequence[Any]) -> Products:
    """Of the image first and then the filters of depthwise bands: one pass."""
    images, filters = (args[0], next(a for a in args if isinstance(a, list | tuple)))
    pixels = images.shape[0] * images.shape[2] * images.shape[3]
    return Products(2.0 * pixels * sum(one.numel() for one in filters), depthwise=True)


def _matrices(args: Sequence[Any]) -> Products:
    """Of two matrices: (M, K), and (N, K) or (K, N)."""
    left, right = args[:2]
    return Products(2.0 * left.shape[0] * right.numel())


def _whole(times: int, weight: int, args: Sequence[Any]) -> Products:
    """Of products as large as that of rows and a weight, by its place among the operands."""
    return Products(times * _matrices((args[0], args[weight])).flops)


def _none(args: Sequence[Any]) -> Products:
    """Passes over a matrix, which multiply by single numbers, and folded weights."""
    return Products()


_OWN: dict[str, Callable[[Sequence[Any]], Products]] = {
    "bands_input_grad": _bands,
    "bands_moments": _bands,
    "bands_weight_grad": _bands,
    "depthwise_bands": _bands,
    "fold_weights": _none,
    "norm_grad": _none,
    "product_add": _matrices,
    "product_gelu": _matrices,
    "product_gelu_grad": _matrices,
    "product_norm_grad": _matrices,
    "scaled_add": _none,
    "scaled_gelu": _none,
    "scaled_gelu_grad": _none,
    "scaled_sum": _none,
    "unfold_weights": _none,
    "update_averages": _none,
    "whole_input_grad": partial(_whole, 3, 2),
    "whole_mlp": partial(_whole, 2, 1),
    "whole_weight_grad": partial(_whole, 4, 2),
    "wide_product": _matrices,
}
