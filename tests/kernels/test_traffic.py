"""What the replaced layers save in an eager training step, counted without a GPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ixt.bench.count.traffic import BATCH, Counter, faked
from ixt.kernels.fuse import fuse
from ixt.kernels.modules import fuse_mixers
from ixt.kernels.residual import keep_residual_half
from ixt.models import create_model

Change = Callable[[nn.Module], object]

CHANGES: dict[str, tuple[Change, ...]] = {
    "timm": (),
    "half stream": (keep_residual_half,),
    "and fused mixers": (keep_residual_half, fuse_mixers),
    "and folded blocks": (keep_residual_half, fuse),
    "and whole products": (keep_residual_half, partial(fuse, gemm="triton")),
    "no half stream": (fuse,),
}
# Kernels, and MB per image, of a training step at 224 px in NHWC under autocast.
COUNTS: dict[str, dict[str, tuple[int, float]]] = {
    "inceptionnext_tiny": {
        "timm": (1227, 531.0),
        "half stream": (1037, 379.6),
        "and fused mixers": (734, 377.4),
        "and folded blocks": (501, 295.5),
        "and whole products": (384, 165.4),
        "no half stream": (531, 350.3),
    },
    "inceptionnext_atto": {
        "timm": (825, 154.5),
        "half stream": (713, 111.1),
        "and fused mixers": (511, 107.3),
        "and folded blocks": (357, 84.7),
        "and whole products": (273, 40.5),
        "no half stream": (381, 101.6),
    },
    "convnext_tiny": {
        "timm": (778, 493.3),
        "half stream": (756, 384.5),
        "and fused mixers": (702, 380.2),
        "and folded blocks": (469, 315.5),
        "and whole products": (370, 195.2),
    },
}
QUICK = [("inceptionnext_tiny", change) for change in ("timm", "and whole products")]
CASES = [(name, change) for name, counts in COUNTS.items() for change in counts]


def count(name: str, change: str) -> tuple[int, float]:
    """Launches, and MB per image, of a forward and a backward pass."""
    model = create_model(name, drop_path_rate=0.1).train()
    for apply in CHANGES[change]:
        apply(model)
    model.to(memory_format=torch.channels_last)
    with FakeTensorMode():
        images = faked(model, BATCH, 224).contiguous(memory_format=torch.channels_last)
        with Counter() as counter:
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(images).float().sum()
            torch.autograd.backward(loss)
    moved = sum(each.moved_bytes for each in counter.counted)
    return sum(each.launches for each in counter.counted), round(moved / BATCH / 1e6, 1)


@pytest.mark.parametrize(
    ("name", "change"),
    [case if case in QUICK else pytest.param(*case, marks=pytest.mark.slow) for case in CASES],
)
def test_kernels_and_bytes_of_a_training_step(name: str, change: str) -> None:
    assert count(name, change) == COUNTS[name][change]
