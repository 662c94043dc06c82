"""The paper's ConvNeXt-T variants, built on timm's ConvNeXt and registered with timm.

Smaller depthwise kernels (k5, k3), and k3 on a part of the channels (par1_2 ... par1_16).

Source: Yu et al. 2024, "InceptionNeXt: When Inception Meets ConvNeXt", section 4; names and
shapes of models/convnext.py of sail-sg/inceptionnext at 3f9769c.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, is_model, register_model
from timm.models.convnext import ConvNeXt, checkpoint_filter_fn
from torch import Tensor, nn

# name: kernel size, share of the channels that is convolved
_VARIANTS = {
    "convnext_tiny_k5": (5, 1.0),
    "convnext_tiny_k3": (3, 1.0),
    "convnext_tiny_k3_par1_2": (3, 1 / 2),
    "convnext_tiny_k3_par3_8": (3, 3 / 8),
    "convnext_tiny_k3_par1_4": (3, 1 / 4),
    "convnext_tiny_k3_par1_8": (3, 1 / 8),
    "convnext_tiny_k3_par1_16": (3, 1 / 16),
}
_RELEASES = "https://github.com/sail-sg/inceptionnext/releases/download/model"

# The name is timm's: register_model looks for it in the module of a model function.
default_cfgs = generate_default_cfgs(
    {
        f"{name}.sail_in1k": {
            "url": f"{_RELEASES}/{name}.pth",
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            "pool_size": (7, 7),
            "crop_pct": 0.875,
            "interpolation": "bicubic",
            "first_conv": "stem.0",
            "classifier": "head.fc",
            "license": "apache-2.0",
            "origin_url": "https://github.com/sail-sg/inceptionnext",
            "paper_ids": "arXiv:2303.16900",
        }
        for name in _VARIANTS
    }
)


class PartialDepthwiseConv2d(nn.Module):
    """Convolve the last channels depthwise and pass the first ones through.

    Takes (B, C, H, W) and returns the same shape.
    """

    def __init__(self, conv: nn.Conv2d, ratio: float) -> None:
        """Keep the filters of the last int(ratio x C) channels of a depthwise convolution.

        Args:
            conv: depthwise convolution of C channels, stride 1, that keeps height and width.
            ratio: share of the channels that is convolved, in (0, 1].

        Raises:
            ValueError: no channel is left, or there are more than C.
        """
        super().__init__()
        channels = int(conv.in_channels * ratio)
        if not 0 < channels <= conv.in_channels:
            raise ValueError(f"ratio {ratio} of {conv.in_channels} channels is {channels} channels")
        self.split_sizes = [conv.in_channels - channels, channels]
        self.conv = nn.Conv2d(
            channels,
            channels,
            cast(tuple[int, int], conv.kernel_size),
            padding=cast(tuple[int, int], conv.padding),
            dilation=cast(tuple[int, int], conv.dilation),
            groups=channels,
            bias=conv.bias is not None,
            device=conv.weight.device,
            dtype=conv.weight.dtype,
        )
        self.conv.load_state_dict({k: v[-channels:] for k, v in conv.state_dict().items()})

    def forward(self, images: Tensor) -> Tensor:
        """Return the features with their last channels convolved."""
        passed, convolved = torch.split(images, self.split_sizes, dim=1)
        return torch.cat((passed, self.conv(convolved)), dim=1)


def timm_equivalent(architecture: str) -> tuple[str, dict[str, Any]] | None:
    """How timm without ixt builds an architecture.

    Returns:
        timm's own name of it and the arguments to add; None for the partial variants, whose
        convolution timm does not have.
    """
    if architecture not in _VARIANTS:
        return architecture, {}
    kernel_size, ratio = _VARIANTS[architecture]
    return ("convnext_tiny", {"kernel_sizes": kernel_size}) if ratio == 1 else None


def _partial_convnext(ratio: float, **kwargs: Any) -> nn.Module:
    """A ConvNeXt of timm with every depthwise convolution made partial."""
    model: nn.Module = ConvNeXt(**kwargs)
    for stage in cast(nn.Sequential, model.stages):
        for block in cast(nn.Sequential, stage.blocks):
            block.conv_dw = PartialDepthwiseConv2d(cast(nn.Conv2d, block.conv_dw), ratio)
    return model


def _register(name: str, kernel_size: int, ratio: float) -> None:
    """Register a variant with timm, once per process."""
    model_class: Callable[..., nn.Module]
    model_class = ConvNeXt if ratio == 1 else partial(_partial_convnext, ratio)

    def create(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        defaults = {
            "depths": (3, 3, 9, 3),
            "dims": (96, 192, 384, 768),
            "kernel_sizes": kernel_size,
        }
        model: nn.Module = build_model_with_cfg(
            model_class,
            name,
            pretrained,
            pretrained_filter_fn=checkpoint_filter_fn,
            feature_cfg={"out_indices": (0, 1, 2, 3), "flatten_sequential": True},
            **{**defaults, **kwargs},
        )
        return model

    create.__name__ = name
    if not is_model(name):
        register_model(create)


for _name, (_kernel_size, _ratio) in _VARIANTS.items():
    _register(_name, _kernel_size, _ratio)
