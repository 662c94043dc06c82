"""Layers that replace timm's in a built model; names and shapes of their parameters stay.

So checkpoints load and save as before, and a layer can be put in or left out in any run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from timm.models.convnext import ConvNeXtBlock
from timm.models.inception_next import ConvMlp, InceptionDWConv2d, MetaNeXtBlock
from torch import Tensor, nn

from ixt.kernels.ops import inception_mix


class FusedInceptionMixer(nn.Module):
    """timm's InceptionDWConv2d as one operator (`ops.inception_mix`).

    Takes (N, C, H, W) and returns the same shape and memory order.
    """

    def __init__(self, mixer: InceptionDWConv2d) -> None:
        """Take over the three convolutions of a mixer for which `is_fusible` holds."""
        super().__init__()
        self.dwconv_hw = mixer.dwconv_hw
        self.dwconv_w = mixer.dwconv_w
        self.dwconv_h = mixer.dwconv_h
        self.dilation = mixer.dwconv_hw.dilation[0]
        self.train(mixer.training)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features, 3 of their parts convolved."""
        square, row, column = self.dwconv_hw, self.dwconv_w, self.dwconv_h
        out: Tensor = inception_mix(
            x,
            *(square.weight, square.bias),
            *(row.weight, row.bias),
            *(column.weight, column.bias),
            self.dilation,
        )
        return out


def is_fusible(module: nn.Module) -> bool:
    """Whether a module is a mixer that `FusedInceptionMixer` computes: odd filters, with biases."""
    if not isinstance(module, InceptionDWConv2d):
        return False
    convs = (module.dwconv_hw, module.dwconv_w, module.dwconv_h)
    return all(conv.bias is not None and all(k % 2 for k in conv.kernel_size) for conv in convs)


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


class HalfResidualBlock(nn.Module):
    """A block of InceptionNeXt or ConvNeXt whose residual stream keeps autocast's type.

    timm multiplies the branch by a layer scale in fp32, which lifts the sum, and with it every
    layer up to the next convolution, to fp32. Without autocast nothing changes.
    Takes (N, C, H, W) and returns the same.
    """

    def __init__(self, block: MetaNeXtBlock | ConvNeXtBlock) -> None:
        """Take over a block's layers and its layer scale."""
        super().__init__()
        for name, layer in block.named_children():
            self.add_module(name, layer)
        self.gamma = block.gamma
        self.branch: Callable[[Any, Tensor], Tensor]
        if isinstance(block, ConvNeXtBlock):
            self.branch = _conv_mlp_branch if block.use_conv_mlp else _convnext_branch
        else:
            self.branch = _metanext_branch
        self.train(block.training)

    def forward(self, x: Tensor) -> Tensor:
        """Return the stream with the block's branch added."""
        device = x.device.type
        if torch.is_autocast_enabled(device):
            # ConvNeXt's stem ends in a layer norm, which autocast runs in fp32.
            x = x.to(torch.get_autocast_dtype(device))
        y = self.branch(self, x)
        if self.gamma is not None:
            y = y * self.gamma.to(y.dtype).reshape(1, -1, 1, 1)
        layers = cast(Any, self)
        shortcut = layers.shortcut(x) if hasattr(self, "shortcut") else x
        out: Tensor = layers.drop_path(y) + shortcut
        return out


def _metanext_branch(block: Any, x: Tensor) -> Tensor:
    out: Tensor = block.mlp(block.norm(block.token_mixer(x)))
    return out


def _conv_mlp_branch(block: Any, x: Tensor) -> Tensor:
    out: Tensor = block.mlp(block.norm(block.conv_dw(x)))
    return out


def _convnext_branch(block: Any, x: Tensor) -> Tensor:
    out: Tensor = block.mlp(block.norm(block.conv_dw(x).permute(0, 2, 3, 1)))
    return out.permute(0, 3, 1, 2)


def replace(
    model: nn.Module, fits: Callable[[nn.Module], bool], make: Callable[[Any], nn.Module]
) -> int:
    """Replace layers of a model in place and return how many.

    Args:
        model: its own layers are looked at, not the model itself.
        fits: whether to replace a layer.
        make: gives the new layer from the old one.
    """
    found = [
        (parent, name, layer)
        for parent in model.modules()
        for name, layer in parent.named_children()
        if fits(layer)
    ]
    for parent, name, layer in found:
        setattr(parent, name, make(layer))
    return len(found)


def fuse(model: nn.Module) -> int:
    """Put `FusedInceptionMixer` and `MatmulMlp` into a model; returns how many mixers there are."""

    def is_plain_mlp(layer: nn.Module) -> bool:
        return isinstance(layer, ConvMlp) and isinstance(layer.norm, nn.Identity)

    mixers = replace(model, is_fusible, FusedInceptionMixer)
    if mixers:
        replace(model, is_plain_mlp, MatmulMlp)
    return mixers


def keep_residual_half(model: nn.Module) -> int:
    """Put `HalfResidualBlock` into a model; returns how many blocks there are."""

    def has_layer_scale(layer: nn.Module) -> bool:
        is_block = isinstance(layer, MetaNeXtBlock | ConvNeXtBlock)
        return is_block and layer.gamma is not None

    return replace(model, has_layer_scale, HalfResidualBlock)
