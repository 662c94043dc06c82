import runpy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from ixt.errors import ModelError
from ixt.models import (
    PartialDepthwiseConv2d,
    count_macs,
    count_params,
    create_model,
    eval_settings,
    paper_models,
    variants,
)
from ixt.recipe.paper import ModelInfo

# Multiply-accumulates in 1e9 as measured on the paper's code, to two decimals; elsewhere the
# published number is all there is.
MEASURED_MACS_G = {
    "inceptionnext_atto": 0.50,
    "inceptionnext_tiny": 4.19,
    "inceptionnext_small": 8.36,
    "inceptionnext_base": 14.84,
    "inceptionnext_base_384": 43.60,
}
SMALL_CONVNEXT: dict[str, Any] = {
    "depths": (1, 1, 1, 1),
    "dims": (16, 32, 48, 64),
    "num_classes": 5,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "inceptionnext_atto": {"depths": (1, 1, 1, 1), "dims": (16, 32, 48, 64), "num_classes": 5},
    "convnext_tiny": SMALL_CONVNEXT,
    "convnext_tiny_k5": SMALL_CONVNEXT | {"conv_mlp": True},
    "convnext_tiny_k3_par1_4": SMALL_CONVNEXT,
    "resnet50": {"layers": (1, 1, 1, 1), "num_classes": 5},
}


def test_the_paper_has_fourteen_models() -> None:
    assert len({row.name for row in paper_models()}) == 14


@pytest.mark.parametrize("row", paper_models(), ids=lambda row: row.name)
def test_params_and_macs_are_those_of_the_paper(row: ModelInfo) -> None:
    model = create_model(row.name, device="meta")
    macs_g = count_macs(model, row.image_size) / 1e9
    assert count_params(model) == row.params
    if row.name in MEASURED_MACS_G:
        assert round(macs_g, 2) == MEASURED_MACS_G[row.name]
    else:
        assert round(macs_g, 1) == row.published_macs_g


def test_macs_of_a_convolution_match_pencil_and_paper() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 16, 10))
    assert count_macs(model, 4) == 8 * 3 * 9 * 16 + 128 * 10


def test_counting_macs_leaves_modes_and_statistics_alone() -> None:
    norm = nn.BatchNorm2d(4)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), norm)
    norm.eval()
    count_macs(model, 2)
    assert model.training and not norm.training
    assert norm.running_mean is not None and norm.running_mean.count_nonzero() == 0


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_learns_in_both_memory_formats(
    name: str, memory_format: torch.memory_format
) -> None:
    torch.manual_seed(0)
    model = create_model(name, drop_path_rate=0.1, **FAMILIES[name])
    model = model.to(memory_format=memory_format)
    images = torch.randn(2, 3, 64, 64).to(memory_format=memory_format)
    F.cross_entropy(model(images), torch.tensor([1, 3])).backward()
    without = [key for key, p in model.named_parameters() if p.grad is None]
    assert not without
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.step()
    assert any(not torch.equal(b, p) for b, p in zip(before, model.parameters(), strict=True))


def test_memory_format_does_not_change_a_partial_convolution() -> None:
    model = create_model("convnext_tiny_k3_par3_8", **SMALL_CONVNEXT).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(images)
        last = torch.channels_last
        actual = model.to(memory_format=last)(images.to(memory_format=last))
    torch.testing.assert_close(actual, expected)


def test_partial_convolution_filters_the_last_channels_only() -> None:
    conv = nn.Conv2d(16, 16, 3, padding=1, groups=16)
    images = torch.randn(2, 16, 5, 5)
    out = PartialDepthwiseConv2d(conv, 3 / 8)(images)
    assert conv.bias is not None
    expected = F.conv2d(images[:, 10:], conv.weight[10:], conv.bias[10:], padding=1, groups=6)
    assert torch.equal(out[:, :10], images[:, :10])
    torch.testing.assert_close(out[:, 10:], expected)


def test_partial_convolution_refuses_a_ratio_without_channels() -> None:
    with pytest.raises(ValueError, match="0 channels"):
        PartialDepthwiseConv2d(nn.Conv2d(8, 8, 3, padding=1, groups=8), 1 / 16)


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("convnext_tiny_k3_par1_2", [48, 96, 192, 384]),
        ("convnext_tiny_k3_par3_8", [36, 72, 144, 288]),
        ("convnext_tiny_k3_par1_16", [6, 12, 24, 48]),
    ],
)
def test_variants_convolve_the_paper_s_channels_per_stage(name: str, channels: list[int]) -> None:
    model: Any = create_model(name, device="meta")
    convs = [stage.blocks[0].conv_dw.conv for stage in model.stages]
    assert [conv.groups for conv in convs] == channels
    assert {conv.kernel_size for conv in convs} == {(3, 3)}


def test_variants_are_timm_models_registered_without_a_warning() -> None:
    runpy.run_path(variants.__file__)  # once more: timm warns of a name that it knows
    assert len(timm.list_models("convnext_tiny_k*")) == 7
    model = timm.create_model("convnext_tiny_k3_par1_8", device="meta")
    assert model.pretrained_cfg["url"].endswith("/convnext_tiny_k3_par1_8.pth")


def test_unknown_model_names_near_ones() -> None:
    with pytest.raises(ModelError, match=r"^inceptionnext_tinny: no such model .*inceptionnext_ti"):
        create_model("inceptionnext_tinny")


def test_unknown_tag_names_the_tags_there_are() -> None:
    with pytest.raises(ModelError, match=r"resnet50\.a1_in1k"):
        create_model("resnet50.a1_in1")


def test_unknown_argument_is_named_with_its_model() -> None:
    with pytest.raises(ModelError, match=r"^inceptionnext_atto: unknown argument head_dropout;"):
        create_model("inceptionnext_atto", head_dropout=0.5)


def test_arguments_reach_timm() -> None:
    model: Any = create_model(
        "inceptionnext_atto", num_classes=7, drop_path_rate=0.3, drop_rate=0.5
    )
    assert model.num_classes == 7
    assert model.head.drop.p == 0.5
    assert model.stages[-1].blocks[-1].drop_path.drop_prob == pytest.approx(0.3)


def test_classes_default_to_imagenet_even_where_timm_s_tag_has_others() -> None:
    assert create_model("convnext_tiny.fb_in22k", device="meta").num_classes == 1000


@pytest.mark.parametrize("row", paper_models(), ids=lambda row: row.name)
def test_paper_names_are_evaluated_by_the_paper_s_protocol(row: ModelInfo) -> None:
    settings = eval_settings(row.name)
    is_384 = row.name == "inceptionnext_base_384"
    assert (settings.image_size, settings.crop_pct) == ((384, 1.0) if is_384 else (224, 0.875))
    assert settings.interpolation == "bicubic"
    assert settings.mean == (0.485, 0.456, 0.406)
    assert settings.std == (0.229, 0.224, 0.225)


def test_timm_names_are_evaluated_by_timm_s_test_settings() -> None:
    assert eval_settings("inception_next_base").crop_pct == 0.95
    resnet = eval_settings("resnet50.a1_in1k")
    assert (resnet.image_size, resnet.crop_pct) == (288, 1.0)
    assert eval_settings("vit_base_patch16_224.augreg_in1k").mean == (0.5, 0.5, 0.5)


def test_a_paper_model_carries_its_evaluation_settings() -> None:
    cfg: Any = create_model("convnext_tiny", device="meta").pretrained_cfg
    assert (cfg["input_size"], cfg["crop_pct"]) == ((3, 224, 224), 0.875)
    assert "test_input_size" not in cfg and "test_crop_pct" not in cfg


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_pretrained_offline_says_what_to_fetch_and_where_to_put_it(offline: Path) -> None:
    with pytest.raises(ModelError) as caught:
        create_model("inceptionnext_atto", pretrained=True)
    message = str(caught.value)
    assert "hf download timm/inception_next_atto.sail_in1k model.safetensors" in message
    assert "models--timm--inception_next_atto.sail_in1k" in message
    assert str(offline) in message and "HF_HUB_CACHE" in message
    assert "\n" not in message


def test_pretrained_offline_takes_weights_from_the_hub_cache(offline: Path) -> None:
    source = create_model("inceptionnext_atto")
    repository = offline / "models--timm--inception_next_atto.sail_in1k"
    snapshot = repository / "snapshots" / "0123456789"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123456789")
    file = snapshot / "model.safetensors"
    save_file(source.state_dict(), file)
    model: Any = create_model("inceptionnext_atto", pretrained=True)
    assert torch.equal(model.head.fc2.weight, source.get_parameter("head.fc2.weight"))
    assert create_model("inceptionnext_atto", pretrained=True, num_classes=3).num_classes == 3
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ModelError, match="published weights are damaged or do not fit"):
        create_model("inceptionnext_atto", pretrained=True)


def test_a_variant_s_published_weights_are_fetched_by_url(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(ModelError) as caught:
        create_model("convnext_tiny_k5", pretrained=True)
    assert "releases/download/model/convnext_tiny_k5.pth into" in str(caught.value)
    assert str(tmp_path / "hub" / "checkpoints") in str(caught.value)


def test_a_model_without_published_weights_says_so() -> None:
    with pytest.raises(ModelError, match=r"^resnet26t_x: no such model"):
        create_model("resnet26t_x", pretrained=True)
    with pytest.raises(ModelError, match=r"^efficientnet_b6: has no published weights"):
        create_model("efficientnet_b6", pretrained=True)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"depths": [1, 1]},
        {"dims": [16, -16, 16, 16]},
        {"dims": "wide"},
        {"act_layer": "nothing"},
        {"dims": [2**40] * 4},
    ],
    ids=str,
)
def test_arguments_that_build_no_model_are_one_line(kwargs: dict[str, Any]) -> None:
    with pytest.raises(ModelError) as caught:
        create_model("convnext_tiny", **kwargs)
    (name,) = kwargs
    assert str(caught.value).startswith(f"convnext_tiny: cannot be built with {name}: ")
    assert "\n" not in str(caught.value)
