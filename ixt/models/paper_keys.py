"""Parameter names of the paper's repository: Facebook's for ConvNeXt, timm's for all the rest.

The inverse of what `loading.py` renames.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from timm.models.convnext import ConvNeXt
from timm.models.inception_next import MetaNeXt
from timm.models.resnet import ResNet
from torch import Tensor, nn

from ixt.errors import ModelError
from ixt.models.create import given_name

# From timm's names to Facebook's, in this order.
_CONVNEXT = (
    (re.compile(r"^stem\."), "downsample_layers.0."),
    (re.compile(r"^stages\.(\d+)\.downsample\."), r"downsample_layers.\1."),
    (re.compile(r"^(stages\.\d+)\.blocks\."), r"\1."),
    (re.compile(r"\.conv_dw\."), ".dwconv."),
    (re.compile(r"\.mlp\.fc([12])\."), r".pwconv\1."),
    (re.compile(r"^head\.norm\."), "norm."),
    (re.compile(r"^head\.fc\."), "head."),
)


def with_paper_keys(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A state dict of one of our models under the names of the paper's repository.

    `model` is a ResNet, InceptionNeXt or ConvNeXt; others are not in the repository.

    Raises:
        ModelError: the repository has no such architecture.

    Source: models/inceptionnext.py and models/convnext.py of sail-sg/inceptionnext at 3f9769c.
    """
    if isinstance(model, (MetaNeXt, ResNet)):
        return dict(state)
    if not isinstance(model, ConvNeXt) or any(".grn." in key for key in state):
        raise ModelError(
            f"{given_name(model)}: the paper's repository has only ResNet, ConvNeXt and "
            "InceptionNeXt; take another format, such as timm-pth"
        )
    return {_facebook_name(key): _linear(key, value) for key, value in state.items()}


def _facebook_name(key: str) -> str:
    for pattern, replacement in _CONVNEXT:
        key = pattern.sub(replacement, key)
    return key


def _linear(key: str, value: Tensor) -> Tensor:
    """The weight of an MLP made of 1x1 convolutions as that of Facebook's linear layers."""
    return value.flatten(1) if ".mlp.fc" in key and value.ndim == 4 else value
