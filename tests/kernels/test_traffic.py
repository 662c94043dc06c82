"""What the replaced layers save in an eager training step, counted without a GPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from torch import nn
from traffic import Traffic, training_traffic

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
        "timm": (1250, 531.0),
        "half stream": (1060, 379.6),
        "and fused mixers": (757, 377.4),
        "and folded blocks": (559, 291.2),
        "and whole products": (457, 154.4),
        "no half stream": (589, 346.0),
    },
    "inceptionnext_atto": {
        "timm": (842, 154.5),
        "half stream": (730, 111.1),
        "and fused mixers": (528, 107.3),
        "and folded blocks": (397, 83.5),
        "and whole products": (329, 42.5),
        "no half stream": (421, 100.4),
    },
    "convnext_tiny": {
        "timm": (779, 493.3),
        "half stream": (757, 384.5),
        "and fused mixers": (703, 380.2),
        "and folded blocks": (505, 315.5),
        "and whole products": (403, 178.0),
    },
}
QUICK = [("inceptionnext_tiny", change) for change in ("timm", "and whole products")]
CASES = [(name, change) for name, counts in COUNTS.items() for change in counts]


def count(name: str, change: str) -> Traffic:
    model = create_model(name, drop_path_rate=0.1).train()
    for apply in CHANGES[change]:
        apply(model)
    return training_traffic(model, 224)


@pytest.mark.parametrize(
    ("name", "change"),
    [case if case in QUICK else pytest.param(*case, marks=pytest.mark.slow) for case in CASES],
)
def test_kernels_and_bytes_of_a_training_step(name: str, change: str) -> None:
    found = count(name, change)
    assert (found.launches, round(found.mb_per_image, 1)) == COUNTS[name][change]
