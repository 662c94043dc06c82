"""The fused mixer on a CUDA device: `pytest -m gpu tests/kernels`."""

from __future__ import annotations

import copy

import pytest
import torch

from ixt.kernels import MixerShape, disagreement, fuse, mixer_shapes
from ixt.kernels.ops import inception_mix
from ixt.models import create_model

pytestmark = pytest.mark.gpu

ORDERS = (torch.contiguous_format, torch.channels_last)
ODD = (
    MixerShape(channels=17, groups=5, square=5, band=7, dilation=1),
    MixerShape(channels=12, groups=4, square=3, band=3, dilation=2),
)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_all_mixers_of_the_paper_agree_with_float64(
    dtype: torch.dtype, order: torch.memory_format
) -> None:
    for size in ("atto", "tiny", "base"):
        shapes = mixer_shapes(create_model(f"inceptionnext_{size}", device="meta"))
        assert disagreement((*shapes, *ODD), torch.device("cuda"), dtype, order) is None


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("compiled", [False, True])
def test_a_fused_model_trains_as_a_plain_one(order: torch.memory_format, compiled: bool) -> None:
    model = create_model("inceptionnext_atto", num_classes=10).cuda().to(memory_format=order)
    fused = copy.deepcopy(model)
    assert fuse(fused) == 12
    if compiled:
        fused.compile()
    images = torch.randn(16, 3, 224, 224, device="cuda").contiguous(memory_format=order)
    losses = []
    for net in (model, fused):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
        labels = torch.arange(16, device="cuda") % 10
        for _ in range(10):
            optimizer.zero_grad()
            with torch.autocast("cuda", torch.bfloat16):
                logits = net(images)
            loss = torch.nn.functional.cross_entropy(logits.float(), labels)
            loss.backward()
            optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


def test_gradients_of_weights_are_the_same_bits_every_time() -> None:
    sizes = ((16, 96, 56, 56), (12, 1, 3, 3), (12,), (12, 1, 1, 11), (12,), (12, 1, 11, 1), (12,))
    inputs = [torch.randn(size, device="cuda").requires_grad_() for size in sizes]
    grad = torch.randn(sizes[0], device="cuda")
    first, second = (torch.autograd.grad(inception_mix(*inputs, 1), inputs, grad) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
