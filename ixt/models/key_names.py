"""The names that other programs give the tensors of a model: read as timm's, and the paper's made.

Facebook's ConvNeXt, torchvision's ConvNeXt, EfficientNets of lukemelas' EfficientNet-PyTorch, and
whatever else a model's module in timm knows to rename. torchvision's ResNet has timm's names.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Mapping
from typing import Literal

import torch
from timm.layers import Conv2dSame
from timm.models.convnext import ConvNeXt, checkpoint_filter_fn
from timm.models.efficientnet import EfficientNet
from timm.models.inception_next import MetaNeXt
from timm.models.resnet import ResNet
from torch import Tensor, nn

from ixt.errors import ModelError
from ixt.models.create import given_name

Names = Literal["facebook-convnext", "torchvision-convnext", "lukemelas-efficientnet", "renamed"]
State = dict[str, Tensor]

# From torchvision's names to timm's.
_TORCHVISION = {"features.0": "stem", "classifier.0": "head.norm", "classifier.2": "head.fc"}
_TORCHVISION_KEY = re.compile(r"features\.(\d+)\.(\d+)\.(?:(block\.[0235])\.)?(\w+)")
_TORCHVISION_BLOCK = {
    "block.0": "conv_dw",
    "block.2": "norm",
    "block.3": "mlp.fc1",
    "block.5": "mlp.fc2",
}
_LUKEMELAS = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_LUKEMELAS_BLOCK = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_se_reduce": "se.conv_reduce",
    "_se_expand": "se.conv_expand",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
# A block that expands nothing has one convolution less, and counts from there.
_LUKEMELAS_FIRST = {"_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


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


def with_model_keys(state: State, model: nn.Module) -> tuple[State, Names | None]:
    """The weights under the model's key names, as far as those are known to differ.

    `model` is of timm; it may be on `meta`.

    Returns:
        The weights, and whose names they had; None where they had the model's own, or unknown ones.

    Raises:
        ModelError: they are for a model that pads its images another way.
    """
    if "downsample_layers.0.0.weight" in state and isinstance(model, ConvNeXt):
        return _from_facebook(state, model), "facebook-convnext"
    if "features.1.0.layer_scale" in state and isinstance(model, ConvNeXt):
        renamed = {_from_torchvision(key): value for key, value in state.items()}
        return _like_model(renamed, model), "torchvision-convnext"
    if "_conv_stem.weight" in state and isinstance(model, EfficientNet):
        return _from_lukemelas(state, model), "lukemelas-efficientnet"
    return state, None


def renamed_by_timm(state: State, model: nn.Module) -> State | None:
    """The weights as the filter of the model's module in timm renames them.

    None where timm has none, or where it does more than rename and reshape: position embeddings are
    resampled only where that is asked for (`resampled_by_timm`).
    """
    try:
        renamed = resampled_by_timm(state, model)
    except Exception:  # fed with other weights than it knows, a filter fails in any way
        return None
    sizes = Counter(value.numel() for value in state.values())
    kept = Counter(value.numel() for value in renamed.values()) <= sizes
    return renamed if kept and renamed.keys() != state.keys() else None


def resampled_by_timm(state: State, model: nn.Module) -> State:
    """The weights with their position embeddings interpolated by the architecture's own filter."""
    module = sys.modules[type(model).__module__]
    adapt = getattr(module, "checkpoint_filter_fn", None)
    return state if adapt is None else dict(adapt(dict(state), model))


def _from_facebook(state: State, model: ConvNeXt) -> State:
    # timm's function renames and, where the model's MLP is convolutional, reshapes, for which it
    # looks keys up in the model. Renaming numbered stand-ins first lets the weights of a deeper
    # model end in a difference by key instead of a KeyError.
    numbered = {key: torch.tensor([index]) for index, key in enumerate(state)}
    tensors = list(state.values())
    renamed = {
        key: tensors[int(index)] for key, index in checkpoint_filter_fn(numbered, model).items()
    }
    return _like_model(renamed, model)


def _from_torchvision(key: str) -> str:
    """A key of torchvision's ConvNeXt: stages at odd places of `features`, what joins at even."""
    for place, own in _TORCHVISION.items():
        if key.startswith(f"{place}."):
            return own + key.removeprefix(place)
    found = _TORCHVISION_KEY.fullmatch(key)
    if found is None:
        return key
    number, index, part, leaf = int(found[1]), *found.groups()[1:]
    if number % 2 == 0:
        return f"stages.{number // 2}.downsample.{index}.{leaf}"
    block = f"stages.{number // 2}.blocks.{index}"
    return (
        f"{block}.gamma" if leaf == "layer_scale" else f"{block}.{_TORCHVISION_BLOCK[part]}.{leaf}"
    )


def _from_lukemelas(state: State, model: EfficientNet) -> State:
    if not isinstance(model.conv_stem, Conv2dSame):
        raise ModelError(
            "these weights were trained with TensorFlow's padding, which this model does not "
            "use, so its results would be wrong; create the model whose name begins with tf_"
        )
    blocks = [
        (f"blocks.{stage}.{index}", block)
        for stage, stage_blocks in enumerate(model.blocks)
        for index, block in enumerate(stage_blocks)
    ]
    places = dict(_LUKEMELAS)
    for number, (name, block) in enumerate(blocks):
        expands = hasattr(block, "conv_pwl")
        parts = _LUKEMELAS_BLOCK if expands else {**_LUKEMELAS_BLOCK, **_LUKEMELAS_FIRST}
        places |= {f"_blocks.{number}.{part}": f"{name}.{own}" for part, own in parts.items()}
    renamed = {}
    for key, value in state.items():
        layer, _, leaf = key.rpartition(".")
        renamed[f"{places[layer]}.{leaf}" if layer in places else key] = value
    return renamed


def _like_model(state: Mapping[str, Tensor], model: nn.Module) -> State:
    """The weights, each in the model's shape where only dimensions of 1 tell them apart."""
    own = model.state_dict()
    return {key: _like(value, own.get(key)) for key, value in state.items()}


def _like(value: Tensor, own: Tensor | None) -> Tensor:
    """A linear layer's (out, in) weight as a 1x1 convolution's; (C, 1, 1) scales as (C,)."""
    if own is None or value.shape == own.shape:
        return value
    same = [n for n in value.shape if n != 1] == [n for n in own.shape if n != 1]
    return value.reshape(own.shape) if same else value


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
