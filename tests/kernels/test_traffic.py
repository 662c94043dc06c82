"""What the replaced layers save in an eager training step, counted without a GPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import nn
from traffic import Traffic, training_traffic

from ixt.kernels import fuse, keep_residual_half
from ixt.models import create_model

Change = Callable[[nn.Module], object]

# Operators that write and MB per image, at 224 px in NHWC under autocast: the plain model, then
# with a half residual stream, with fused layers, with both.
COUNTS: dict[str, list[tuple[int, float]]] = {
    "inceptionnext_tiny": [(1267, 597.5), (1077, 442.5), (778, 552.6), (756, 440.2)],
    "inceptionnext_atto": [(853, 165.1), (741, 120.8), (543, 148.4), (527, 117.0)],
    "convnext_tiny": [(796, 560.9), (774, 448.5)],
}
OTHERS = ("inceptionnext_atto", "convnext_tiny")
CHANGES: list[tuple[Change, ...]] = [(), (keep_residual_half,), (fuse,), (keep_residual_half, fuse)]


@pytest.mark.parametrize(
    "name", ["inceptionnext_tiny", *(pytest.param(n, marks=pytest.mark.slow) for n in OTHERS)]
)
def test_launches_and_bytes_of_a_training_step(name: str) -> None:
    found: list[Traffic] = []
    for changes in CHANGES[: len(COUNTS[name])]:
        model = create_model(name, drop_path_rate=0.1).train()
        for change in changes:
            change(model)
        found.append(training_traffic(model, 224))
    assert [(t.launches, round(t.mb_per_image, 1)) for t in found] == COUNTS[name]
