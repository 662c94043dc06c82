from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ixt.estimate.counting import saved_activations, saved_sizes
from ixt.models import create_model

# Sliced depthwise convolutions, layer norm, batch norm and attention, small.
SHALLOW = {"depths": [1, 1, 1, 1]}
MODELS: dict[str, dict[str, Any]] = {
    "inceptionnext_atto": {"drop_path_rate": 0.1, **SHALLOW},
    "convnext_atto": SHALLOW,
    "resnet18": {},
    "vit_tiny_patch16_224": {"img_size": 64, "depth": 2},
}


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", MODELS)
def test_the_prediction_is_what_a_real_pass_saves(name: str, half: bool) -> None:
    with torch.device("meta"):
        model = create_model(name, **MODELS[name])
    predicted = saved_activations(model, 64, half)

    real = create_model(name, **MODELS[name]).train()
    batch = 6  # another one than those that the prediction looked at
    measured = sum(saved_sizes(real, torch.randn(batch, 3, 64, 64), half))
    # On fake tensors a norm's statistics come in bf16, in truth in fp32: a few bytes per channel.
    tolerance = 0.01 if half else 0.0
    whole = predicted.fixed_bytes + batch * predicted.per_image_bytes
    assert whole == pytest.approx(measured, rel=tolerance, abs=0.0)
    assert 0 < predicted.largest_bytes < predicted.per_image_bytes


def test_bf16_saves_about_half_and_copies_of_the_weights() -> None:
    found = {}
    for half in (False, True):
        with torch.device("meta"):
            model = create_model("resnet18")
        found[half] = saved_activations(model, 64, half)
    assert found[True].per_image_bytes < 0.6 * found[False].per_image_bytes
    weights = 2 * 11_689_512
    assert found[True].fixed_bytes == pytest.approx(weights, rel=0.02)
    assert found[False].fixed_bytes < 0.01 * weights


@pytest.mark.slow
@pytest.mark.parametrize("half", [False, True], ids=["fp32", "bf16"])
def test_torchs_own_memory_tracker_agrees(half: bool) -> None:
    from torch.distributed._tools.mem_tracker import MemTracker

    with torch.device("meta"):
        predicted = saved_activations(create_model("inceptionnext_tiny"), 224, half)
    batch = 8
    with torch.device("meta"):
        model = create_model("inceptionnext_tiny").train()
    with FakeTensorMode():
        model._apply(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype))
        tracker = MemTracker()
        tracker.track_external(model)
        with tracker:
            images = torch.empty(batch, 3, 224, 224)
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                logits = model(images)
            (live,) = tracker.get_tracker_snapshot("current").values()
            logits.float().mean().backward()
            (peak,) = tracker.get_tracker_snapshot("peak").values()
    saved = predicted.fixed_bytes + batch * predicted.per_image_bytes
    kinds = {str(getattr(kind, "value", kind)): size for kind, size in live.items()}
    assert saved == pytest.approx(kinds["Activation"] + kinds["Temp"], rel=0.02)
    weights = kinds["Parameter"]
    # The estimate adds weights, gradients and the working set: an upper bound, and a near one.
    estimated = saved + 2 * weights + 2 * batch * predicted.largest_bytes
    assert 0.75 * estimated < peak["Total"] < estimated


def test_a_frozen_network_saves_nothing_but_its_largest_layer_still_passes() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU(), nn.MaxPool2d(2)).requires_grad_(False)
    found = saved_activations(model, 8, half=False)
    assert (found.per_image_bytes, found.largest_bytes) == (0, 5 * 8 * 8 * 4)
