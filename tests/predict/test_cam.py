from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from ixt.errors import ModelError
from ixt.models import create_model
from ixt.predict.cam import find_layer, heat_maps, overlay, require_grad_cam


class Blobs(nn.Module):
    """Three classes: how much red, green and blue there is, seen through 8 x 8 maps."""

    def __init__(self) -> None:
        super().__init__()
        self.see = nn.Conv2d(3, 3, 4, stride=4, bias=False)
        self.act = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(3, 3, bias=False)
        with torch.no_grad():
            self.see.weight.copy_(torch.eye(3)[:, :, None, None].expand(3, 3, 4, 4))
            self.head.weight.copy_(torch.eye(3))
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.pool(self.act(self.see(images))).flatten(1))


def test_heat_lies_on_the_pattern_of_the_class_asked_for() -> None:
    image = torch.zeros(3, 32, 32)
    places = {0: (4, 20), 1: (20, 8), 2: (12, 24)}
    for channel, (top, left) in places.items():
        image[channel, top : top + 4, left : left + 4] = 1.0
    model = Blobs()
    layer = find_layer(model, image)
    # Not the pooled maps, which are 1 x 1.
    assert (layer.name, layer.side) == ("act", 8)
    heat = heat_maps(model, layer, torch.stack([image] * 3), [0, 1, 2])
    assert heat.shape == (3, 32, 32) and heat.min() >= 0 and heat.max() <= 1
    for channel, (top, left) in places.items():
        y, x = np.unravel_index(heat[channel].argmax(), (32, 32))
        assert top <= y < top + 4 and left <= x < left + 4
        inside = heat[channel, top - 2 : top + 6, left - 2 : left + 6].sum()
        assert inside > 0.95 * heat[channel].sum()


def test_nothing_that_speaks_for_a_class_leaves_the_map_cold() -> None:
    image = torch.zeros(3, 32, 32)
    image[0, 8:12, 8:12] = 1.0
    model = Blobs()
    assert not heat_maps(model, find_layer(model, image), image[None], [1]).any()


@pytest.mark.parametrize(
    ("name", "size", "layer", "side"),
    [
        ("inceptionnext_atto", 128, "stages.3", 4),
        ("inceptionnext_atto", 48, "stages.1", 6),
        ("convnext_atto", 128, "stages.3", 4),
        ("resnet18", 128, "layer4", 4),
        ("resnet18", 64, "layer3", 4),
    ],
)
def test_the_layer_is_the_last_stage_that_shows_places(
    name: str, size: int, layer: str, side: int
) -> None:
    model = create_model(name, num_classes=10).eval().requires_grad_(False)
    torch.manual_seed(0)
    image = torch.randn(3, size, size)
    found = find_layer(model, image)
    assert (found.name, found.side) == (layer, side)
    heat = heat_maps(model, found, image[None].expand(2, -1, -1, -1), [3, 7])
    assert not np.allclose(heat[0], heat[1], atol=0.05)


@pytest.mark.parametrize(
    ("name", "arguments", "layer"),
    [
        ("vit_tiny_patch16_224", {"img_size": 64, "depth": 2}, "blocks.1.norm1"),
        (
            "swin_tiny_patch4_window7_224",
            {"img_size": 112, "depths": (1, 1, 1, 1), "embed_dim": 24},
            "layers.3",
        ),
    ],
)
def test_transformers_have_maps_too(name: str, arguments: dict[str, Any], layer: str) -> None:
    model = timm.create_model(name, num_classes=10, **arguments).eval()
    image = torch.randn(3, arguments["img_size"], arguments["img_size"])
    found = find_layer(model, image)
    assert (found.name, found.side) == (layer, 4)
    assert heat_maps(model, found, image[None], [2]).max() == pytest.approx(1, abs=1e-3)


def test_a_model_without_maps_is_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    with pytest.raises(ModelError, match="Sequential: no layer of it gives feature maps"):
        find_layer(model, torch.zeros(3, 8, 8))


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)
    with pytest.raises(ModelError, match=r"^--cam needs pytorch-grad-cam.*'ixt\[cam\]'$"):
        require_grad_cam()


def test_the_overlay_is_grey_where_cold_and_bright_where_hot() -> None:
    heat = np.zeros((8, 8), np.float32)
    heat[:, 4:] = 1
    shown = np.asarray(overlay(Image.new("RGB", (64, 64), (200, 30, 90)), heat)).astype(int)
    cold, hot = shown[32, 4], shown[32, 60]
    assert np.ptp(cold) == 0 and np.ptp(hot) > 90 and hot[0] > cold[0]
