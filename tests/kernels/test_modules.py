"""Layers that replace timm's: same parameters, same results."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from ixt.kernels import FusedInceptionMixer, fuse, keep_residual_half, mixer_shapes
from ixt.models import create_model

ORDERS = (torch.contiguous_format, torch.channels_last)


def small(name: str, **kwargs: object) -> nn.Module:
    """Four small stages, of branches of 6 to 8 channels, with layer scales that matter."""
    sizes = {"depths": (1, 1, 1, 1), "dims": (24, 28, 32, 32), **kwargs}
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
def test_a_fused_model_gives_timms_results_and_gradients(order: torch.memory_format) -> None:
    model = small("inceptionnext_atto").double().to(memory_format=order)
    fused = copy.deepcopy(model)
    assert fuse(fused) == 4
    assert keep_residual_half(fused) == 4
    images = torch.randn(3, 3, 64, 96, dtype=torch.float64).contiguous(memory_format=order)
    torch.testing.assert_close(outcome(fused, images), outcome(model, images))


@pytest.mark.parametrize("name", ["inceptionnext_tiny", "convnext_tiny"])
def test_state_dicts_go_both_ways(name: str) -> None:
    model = small(name)
    changed = copy.deepcopy(model)
    fuse(changed)
    keep_residual_half(changed)
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
    fuse(fused)
    keep_residual_half(fused)
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
            for block in stage.blocks:  # type: ignore[union-attr]
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
    assert kinds.count(FusedInceptionMixer) == 3


def test_the_shapes_of_the_papers_mixers_are_found() -> None:
    atto, tiny = (
        mixer_shapes(create_model(f"inceptionnext_{size}", device="meta"))
        for size in ("atto", "tiny")
    )
    assert [(s.channels, s.groups, s.band) for s in atto] == [
        (40, 10, 9), (80, 20, 9), (160, 40, 9), (320, 80, 9)
    ]  # fmt: skip
    assert [(s.channels, s.groups, s.band) for s in tiny] == [
        (96, 12, 11), (192, 24, 11), (384, 48, 11), (768, 96, 11)
    ]  # fmt: skip
