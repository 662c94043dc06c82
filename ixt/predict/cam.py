"""Where a model looked: Grad-CAM of one class, from the last maps that still show places.

The maps and their gradients are pytorch-grad-cam's business; this module finds the layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from ixt.errors import ModelError
from ixt.models.create import given_name

if TYPE_CHECKING:
    from pytorch_grad_cam import GradCAM

# Smaller maps say too little of places: a model for 224 px ends with 7 x 7, at 48 px with 1 x 1.
_MIN_SIDE = 4

ToMaps = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Layer:
    """A layer to take maps from."""

    name: str
    """Name of the layer in the model."""
    module: nn.Module
    side: int
    """Shorter side of its maps for the image tried."""
    to_maps: ToMaps | None
    """Turns its output into (B, C, h, w); None where it is so already."""


def find_layer(model: nn.Module, image: Tensor) -> Layer:
    """The layer that Grad-CAM looks at: the last one whose maps are 4 x 4 or larger.

    Candidates are the stages that timm names in `feature_info`: the last stage of InceptionNeXt,
    ConvNeXt and ResNet at 224 px, an earlier one for small images. Of transformers it is the
    normalisation in front of the last attention, since tokens of images no longer matter behind
    it. Of other models, every module that gives four-dimensional outputs is a candidate. Where
    all maps are smaller, the largest ones serve.

    `model` is in evaluation mode; `image` is (3, S, S), normalised, on its device.

    Raises:
        ModelError: nothing in the model gives maps.
    """
    channels = _stages(model)
    names = dict.fromkeys(channels) or {name: None for name, _ in model.named_modules() if name}
    found: list[Layer] = []

    def look(name: str, module: nn.Module, _: Any, output: Any) -> None:
        layer = _as_layer(model, name, module, output, channels.get(name))
        if layer is not None:
            found.append(layer)

    handles = [
        model.get_submodule(name).register_forward_hook(partial(look, name)) for name in names
    ]
    try:
        with torch.no_grad():
            model(image[None])
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        raise ModelError(
            f"{given_name(model)}: no layer of it gives feature maps, so nothing tells where it "
            "looked; leave out --cam"
        )
    large = [layer for layer in found if layer.side >= _MIN_SIDE]
    if large:
        return large[-1]
    side = max(layer.side for layer in found)
    return [layer for layer in found if layer.side == side][-1]


def heat_maps(
    model: nn.Module, layer: Layer, images: Tensor, outputs: Sequence[int]
) -> NDArray[np.float32]:
    """How much each place of an image spoke for a class.

    The model is in evaluation mode; images are (n, 3, S, S) float32, normalised, on its device.
    `outputs` are (n,): numbers of the classes asked for.

    Returns:
        (n, S, S), in [0, 1]: 1 where most spoke for it, 0 everywhere if nothing did.

    Raises:
        ModelError: pytorch-grad-cam is not installed.

    Source: Selvaraju et al. 2017, "Grad-CAM: Visual Explanations from Deep Networks via
        Gradient-based Localization".
    """
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    targets = [ClassifierOutputTarget(output) for output in outputs]
    # The images take gradients, since the parameters may not.
    wanted = images.detach().clone().requires_grad_()
    with _grad_cam(model, layer) as cam, torch.enable_grad():
        maps: NDArray[np.float32] = cam(wanted, targets)
    return maps.astype(np.float32)


def require_grad_cam() -> None:
    """Raise ModelError where pytorch-grad-cam is not installed."""
    try:
        import pytorch_grad_cam  # noqa: F401
    except ImportError as error:
        raise ModelError(
            "--cam needs pytorch-grad-cam, which is not installed; pip install 'ixt[cam]'"
        ) from error


@contextmanager
def _grad_cam(model: nn.Module, layer: Layer) -> Iterator[GradCAM]:
    from pytorch_grad_cam import GradCAM

    # Not its own context manager, which swallows IndexError.
    cam = GradCAM(model, [layer.module], layer.to_maps)
    try:
        yield cam
    finally:
        cam.activations_and_grads.release()


def _stages(model: nn.Module) -> dict[str, int]:
    """Module and channels of each stage, where timm tells them."""
    infos: Any = getattr(model, "feature_info", None)
    modules = dict(model.named_modules())
    stages: dict[str, int] = {}
    for info in infos or ():
        name = info.get("module", "") if isinstance(info, Mapping) else ""
        if isinstance(getattr(modules.get(name), "norm1", None), nn.Module) and _has_tokens(model):
            name = f"{name}.norm1"
        if name in modules:
            stages[name] = info["num_chs"]
    return stages


def _has_tokens(model: nn.Module) -> bool:
    return hasattr(model, "num_prefix_tokens")


def _as_layer(
    model: nn.Module, name: str, module: nn.Module, output: Any, channels: int | None
) -> Layer | None:
    """The module as a candidate; None where its output is not maps."""
    if not isinstance(output, Tensor):
        return None
    if output.ndim == 4:
        last = channels is not None and output.shape[1] != channels == output.shape[-1]
        height, width = output.shape[1:3] if last else output.shape[2:]
        to_maps: ToMaps | None = _channels_first if last else None
    elif output.ndim == 3 and _has_tokens(model):
        prefix: Any = model.num_prefix_tokens
        height = width = math.isqrt(output.shape[1] - prefix)
        if height * width != output.shape[1] - prefix:
            return None
        to_maps = partial(_tokens_as_maps, prefix=prefix, side=height)
    else:
        return None
    return Layer(name, module, min(height, width), to_maps)


def _channels_first(output: Tensor) -> Tensor:
    return output.permute(0, 3, 1, 2)


def _tokens_as_maps(output: Tensor, *, prefix: int, side: int) -> Tensor:
    tokens = output[:, prefix:]
    return tokens.transpose(1, 2).reshape(len(tokens), -1, side, side)


def overlay(picture: Image.Image, heat: NDArray[np.float32]) -> Image.Image:
    """The picture with heat on it: grey where nothing spoke for the class, else glowing.

    `picture` is a square in RGB; `heat` is (S, S) in [0, 1].
    """
    from matplotlib import colormaps  # comes with pytorch-grad-cam

    side = picture.width
    spread = Image.fromarray(heat).resize((side, side), Image.Resampling.BICUBIC)
    warmth = np.clip(np.asarray(spread), 0, 1)[..., None]
    grey = np.asarray(picture.convert("L"), np.float32)[..., None] / 255
    colour = colormaps["inferno"](0.35 + 0.6 * warmth[..., 0])[..., :3]
    share = 0.8 * warmth
    mixed = (1 - share) * (0.15 + 0.7 * grey) + share * colour
    return Image.fromarray(np.round(255 * np.clip(mixed, 0, 1)).astype(np.uint8))
