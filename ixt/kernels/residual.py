"""Blocks whose residual stream keeps the type of autocast, and how layers are exchanged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from timm.models.convnext import ConvNeXtBlock
from timm.models.inception_next import MetaNeXtBlock
from torch import Tensor, nn


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
        self.takes_rows = isinstance(block, ConvNeXtBlock) and not block.use_conv_mlp
        """Whether norm and MLP take (N, H, W, C)."""
        self.train(block.training)

    def forward(self, x: Tensor) -> Tensor:
        """Return the stream with the block's branch added."""
        device = x.device.type
        if torch.is_autocast_enabled(device):
            # ConvNeXt's stem ends in a layer norm, which autocast runs in fp32.
            x = x.to(torch.get_autocast_dtype(device))
        layers = cast(Any, self)
        y = (layers.token_mixer if hasattr(self, "token_mixer") else layers.conv_dw)(x)
        if self.takes_rows:
            y = layers.mlp(layers.norm(y.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        else:
            y = layers.mlp(layers.norm(y))
        if self.gamma is not None:
            y = y * self.gamma.to(y.dtype).reshape(1, -1, 1, 1)
        shortcut = layers.shortcut(x) if hasattr(self, "shortcut") else x
        out: Tensor = layers.drop_path(y) + shortcut
        return out


def replace(
    model: nn.Module, fits: Callable[[nn.Module], bool], make: Callable[[Any], nn.Module]
) -> int:
    """Replace layers of a model in place and return how many.

    The model itself is not looked at.
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


def keep_residual_half(model: nn.Module) -> int:
    """Put `HalfResidualBlock` into a model; returns how many blocks there are."""

    def has_layer_scale(layer: nn.Module) -> bool:
        is_block = isinstance(layer, MetaNeXtBlock | ConvNeXtBlock)
        return is_block and layer.gamma is not None

    return replace(model, has_layer_scale, HalfResidualBlock)
