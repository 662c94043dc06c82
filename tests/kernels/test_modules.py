"""Layers that replace timm's: same parameters, same results."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ixt.kernels.fuse import fuse
from ixt.kernels.modules import FusedMixer, bands_of
from ixt.kernels.residual import keep_residual_half
from ixt.kernels.selfcheck import mixers_to_fuse
from ixt.models import create_model

ORDERS = (torch.contiguous_format, torch.channels_last)


def small(name: str, **kwargs: Any) -> nn.Module:
    """Four small stages, of branches of 6 to 8 channels, with layer scales that matter."""
    sizes: dict[str, Any] = {"depths": (1, 1, 1, 1), "dims": (24, 28, 32, 32), **kwargs}
    model = create_model(name, num_classes=5, drop_path_rate=0.2, **sizes)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, 1.0, 0.2)
    return model


def outcome(model: nn.Module, images: Tensor, half: bool = False) -> list[Tensor]:
    """Logits and all gradients of a training pass, with the same paths dropped every time."""
    model.zero_grad()
    torch.manual_seed(3)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        logits: Tensor = model(images)
    logits.float().square().sum().backward()
    return [logits.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    "name", ["inceptionnext_atto", "convnext_tiny", "convnext_tiny_k5", "convnext_tiny_k3_par3_8"]
)
def test_a_fused_model_gives_timms_results_and_gradients(
    name: str, order: torch.memory_format
) -> None:
    model = small(name).double().to(memory_format=order)
    fused = copy.deepcopy(model)
    assert keep_residual_half(fused) == 4
    assert fuse(fused) == 4
    images = torch.randn(3, 3, 64, 96, dtype=torch.float64).contiguous(memory_format=order)
    torch.testing.assert_close(outcome(fused, images), outcome(model, images))


@pytest.mark.parametrize("name", ["inceptionnext_tiny", "convnext_tiny", "convnext_tiny_k3_par1_4"])
def test_state_dicts_go_both_ways(name: str) -> None:
    model = small(name)
    changed = copy.deepcopy(model)
    keep_residual_half(changed)
    fuse(changed)
    assert [n for n, _ in changed.named_parameters()] == [n for n, _ in model.named_parameters()]
    before, after = model.state_dict(), changed.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)
    other = small(name)
    other.load_state_dict(after)
    changed.load_state_dict(before)
    assert copy.deepcopy(changed).state_dict().keys() == before.keys()


def test_a_fused_model_keeps_its_mode_and_evaluates_alike() -> None:
    model = small("inceptionnext_tiny").eval()
    fused = copy.deepcopy(model)
    keep_residual_half(fused)
    fuse(fused)
    assert not any(module.training for module in fused.modules())
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(fused(images), model(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("inceptionnext_tiny", {}),
        ("convnext_tiny_k3_par1_4", {}),
        ("convnext_tiny", {"conv_mlp": True}),
        ("convnext_tiny", {"use_grn": True}),
    ],
)
def test_half_residual_keeps_every_block_in_bf16(name: str, kwargs: dict[str, object]) -> None:
    model = small(name, **kwargs)
    plain = copy.deepcopy(model)
    images = torch.randn(3, 3, 64, 64)

    def types(model: nn.Module) -> set[torch.dtype]:
        seen: set[torch.dtype] = set()
        for stage in model.stages:  # type: ignore[union-attr]
            for block in stage.blocks:
                block.register_forward_hook(lambda _, __, out: seen.add(out.dtype))
        outcome(model, images, half=True)
        return seen

    assert keep_residual_half(model) == 4
    assert types(plain) == {torch.float32}
    assert types(model) == {torch.bfloat16}
    torch.testing.assert_close(
        outcome(model, images, half=True)[0], outcome(plain, images, half=True)[0],
        rtol=0.05, atol=0.05 * float(outcome(plain, images)[0].abs().max()),
    )  # fmt: skip
    assert torch.equal(outcome(model, images)[0], outcome(plain, images)[0])


def test_mixers_that_the_kernels_cannot_do_stay() -> None:
    model = small("inceptionnext_tiny")
    mixers: list[nn.Module] = [m for n, m in model.named_modules() if n.endswith("token_mixer")]
    mixers[0].dwconv_w = nn.Conv2d(3, 3, (1, 11), padding=(0, 5), groups=3, bias=False)
    assert fuse(model) == 3
    kinds = [type(m) for n, m in model.named_modules() if n.endswith("token_mixer")]
    assert kinds.count(FusedMixer) == 3


def test_the_shapes_of_the_papers_mixers_are_found() -> None:
    def bands(name: str) -> list[tuple[object, ...]]:
        found = map(bands_of, mixers_to_fuse(create_model(name, device="meta")))
        return [(shape[0], shape[1].groups, *shape[1].sizes) for shape in found if shape]

    for name, widths, side in (("atto", (40, 80, 160, 320), 9), ("tiny", (96, 192, 384, 768), 11)):
        assert bands(f"inceptionnext_{name}") == [
            (c, int(c * (0.25 if name == "atto" else 0.125)), (3, 3), (1, side), (side, 1))
            for c in widths
        ]
    for name, share, side in (("", 1, 7), ("_k5", 1, 5), ("_k3", 1, 3), ("_k3_par1_8", 8, 3)):
        assert bands(f"convnext_tiny{name}") == [
            (c, c // share, (side, side)) for c in (96, 192, 384, 768)
        ]


def test_convnexts_depthwise_convolutions_are_replaced_and_no_others() -> None:
    model = small("convnext_tiny", conv_bias=False)
    assert fuse(model) == 0  # a kernel adds a bias
    model = small("convnext_tiny")
    plain = copy.deepcopy(model).get_submodule("stem.0")
    assert fuse(model) == 4
    assert sum(isinstance(module, FusedMixer) for module in model.modules()) == 4
    assert type(model.get_submodule("stem.0")) is type(plain)
    assert fuse(create_model("efficientnet_b0")) == 0
