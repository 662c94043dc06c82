"""Layers that replace timm's in a built model; names and shapes of their parameters stay.

So checkpoints load and save as before, and a layer can be put in or left out in any run.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.models.convnext import ConvNeXtBlock
from timm.models.inception_next import ConvMlp, InceptionDWConv2d
from torch import Tensor, nn

from ixt.kernels.bands import depthwise_bands
from ixt.kernels.residual import HalfResidualBlock, replace
from ixt.kernels.shapes import Bands
from ixt.models.variants import PartialDepthwiseConv2d


class FusedMixer(nn.Module):
    """A layer that has `bands_of` as one operator: no split, no concatenation.

    Takes (N, C, H, W) and returns the same shape and memory order.
    """

    def __init__(self, layer: nn.Module) -> None:
        """Take over the layer's convolutions, or its weight and bias if it is one itself."""
        super().__init__()
        found = bands_of(layer)
        assert found is not None
        self.dilation = found[1].dilation
        for name, conv in layer.named_children():
            self.add_module(name, conv)
        for name, parameter in layer.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        self.train(layer.training)

    def weights(self) -> tuple[list[Tensor], list[Tensor]]:
        """Filters and biases of its bands: the square, the row and the column one, or one."""
        convs: list[Any] = [*self.children()] or [self]
        return [conv.weight for conv in convs], [conv.bias for conv in convs]

    def forward(self, x: Tensor) -> Tensor:
        """Return the features, the last of them convolved."""
        return depthwise_bands(x, *self.weights(), self.dilation)


def bands_of(layer: nn.Module) -> tuple[int, Bands] | None:
    """The channels and bands of a layer of timm's or ixt's that the kernels compute.

    None for any other: filters must be odd and have biases, and keep height and width.
    """
    convs: list[nn.Conv2d]
    if isinstance(layer, InceptionDWConv2d):
        convs = [layer.dwconv_hw, layer.dwconv_w, layer.dwconv_h]
        channels = sum(layer.split_indexes)
    elif isinstance(layer, PartialDepthwiseConv2d):
        convs, channels = [layer.conv], sum(layer.split_sizes)
    elif isinstance(layer, nn.Conv2d):
        convs, channels = [layer], layer.in_channels
    else:
        return None
    dilation = convs[0].dilation[0]
    if not all(_computable(conv, dilation) for conv in convs):
        return None
    return channels, Bands.of([conv.weight for conv in convs], dilation)


def _computable(conv: nn.Conv2d, dilation: int) -> bool:
    """Depthwise, with biases, of the shape of its input; a side of 1 has no dilation."""
    kept = all(
        size % 2 and step == 1 and pad == size // 2 * dilation and (size == 1 or d == dilation)
        for size, step, pad, d in zip(
            conv.kernel_size, conv.stride, conv.padding, conv.dilation, strict=True
        )
    )
    depthwise = conv.groups == conv.in_channels == conv.out_channels
    return kept and depthwise and conv.bias is not None and conv.padding_mode == "zeros"


def lay_out_filters(model: nn.Module) -> None:
    """Move the filters of fused layers in memory so that each tap's channels are neighbours.

    Kernels then read several at once. Values, shapes and the state dict stay; call it after the
    model got its memory format, which puts them back.
    """
    for layer in model.modules():
        if isinstance(layer, FusedMixer):
            for weight in layer.weights()[0]:
                weight.data = weight.data.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)


class MatmulMlp(nn.Module):
    """timm's ConvMlp, whose 1x1 convolutions become matrix products where images lie in NHWC.

    A product adds its bias itself; after a convolution PyTorch adds it in a pass of its own, over
    a tensor of four times the block's channels. Takes (N, C, H, W) and returns the same.
    """

    def __init__(self, mlp: ConvMlp) -> None:
        """Take over the layers of an MLP without norm."""
        super().__init__()
        self.fc1 = mlp.fc1
        self.act = mlp.act
        self.drop = mlp.drop
        self.fc2 = mlp.fc2
        self.train(mlp.training)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features, mixed across channels."""
        if not x.is_contiguous(memory_format=torch.channels_last):
            out: Tensor = self.fc2(self.drop(self.act(self.fc1(x))))
            return out
        pixels = x.permute(0, 2, 3, 1).flatten(0, 2)
        hidden = F.linear(pixels, self.fc1.weight.flatten(1), self.fc1.bias)
        mixed = F.linear(self.drop(self.act(hidden)), self.fc2.weight.flatten(1), self.fc2.bias)
        out = mixed.reshape(x.shape[0], *x.shape[2:], -1)
        return out.permute(0, 3, 1, 2)


def token_mixers(model: nn.Module) -> list[nn.Module]:
    """The layers of a model that mix pixels and that the kernels compute, in its order.

    Those are InceptionNeXt's mixers, and the depthwise convolutions of ConvNeXt's blocks.
    """
    blocks = (m for m in model.modules() if isinstance(m, ConvNeXtBlock | HalfResidualBlock))
    convs = {id(block.conv_dw) for block in blocks if hasattr(block, "conv_dw")}
    return [
        layer
        for layer in model.modules()
        if (isinstance(layer, InceptionDWConv2d) or id(layer) in convs) and bands_of(layer)
    ]


def fuse_mixers(model: nn.Module) -> int:
    """Put fused layers in the place of `token_mixers`, and `MatmulMlp` beside InceptionNeXt's.

    Returns:
        How many mixers there are.
    """
    mixers = {id(layer) for layer in token_mixers(model)}

    def is_plain_mlp(layer: nn.Module) -> bool:
        return isinstance(layer, ConvMlp) and isinstance(layer.norm, nn.Identity)

    found = replace(model, lambda layer: id(layer) in mixers, FusedMixer)
    if found:
        replace(model, is_plain_mlp, MatmulMlp)
    return found
