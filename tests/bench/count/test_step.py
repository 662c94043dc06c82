"""What `ixt bench count` counts: by hand, beside another counter, and held to bounds."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from typer.testing import CliRunner, Result

from ixt.bench.count.layers import Layers
from ixt.bench.count.operations import _OWN
from ixt.bench.count.step import Setting, Variant, count_step
from ixt.bench.count.traffic import Counter, cut
from ixt.cli import app
from ixt.kernels import gemm  # noqa: F401, all operators of ixt
from ixt.kernels.operators import twins
from ixt.models.cost import count_params, model_costs
from ixt.models.create import create_empty_model

# At most: kernels, and MB per image, of a whole step in NHWC under autocast to bf16, batch 128; and
# GFLOP per image.
BOUNDS: dict[tuple[str, Variant], tuple[int, float, float]] = {
    ("inceptionnext_tiny", "plain"): (1248, 542.5, 25.11),
    ("inceptionnext_tiny", "fused"): (405, 176.9, 27.18),
    ("convnext_tiny", "plain"): (799, 505.0, 26.71),
    ("convnext_tiny", "fused"): (391, 206.9, 28.79),
    ("resnet50", "plain"): (601, 444.2, 24.30),
}
# Products that whole MLPs compute again, each of 56^2 pixels x 96 x 384: in the three blocks of the
# first stage fc1 twice and the gradient of hidden features once.
AGAIN = 3 * 3 * 2 * 56**2 * 96 * 384
QUICK = ("convnext_tiny", "fused")


@pytest.mark.parametrize(
    "case",
    [case if case == QUICK else pytest.param(case, marks=pytest.mark.slow) for case in BOUNDS],
    ids=" ".join,
)
def test_a_step_stays_within_its_bounds(case: tuple[str, Variant]) -> None:
    launches, megabytes, gflop = BOUNDS[case]
    counted = count_step(Setting(*case))
    assert 0.98 * launches <= sum(one.launches for one in counted) <= launches
    assert 0.99 * megabytes <= sum(one.moved_bytes for one in counted) / 128e6 <= megabytes
    found = sum(one.products.flops for one in counted)
    assert found == pytest.approx(gflop * 128e9, rel=1e-3)
    again = AGAIN if case[1] == "fused" else 0
    assert found / 128 - again == pytest.approx(model_costs(case[0], 224).flops("train"), rel=1e-9)


def test_lists_of_tensors_are_cut_into_launches_as_aten_cuts_them() -> None:
    assert cut([5] * 7, most_tensors=3, most_chunks=100) == 3
    assert cut([5 * 65536, 1], most_tensors=9, most_chunks=4) == 2
    assert cut([8 * 65536], most_tensors=9, most_chunks=4) == 2


def test_the_rest_of_an_update_takes_25_launches_and_four_passes() -> None:
    counted = count_step(Setting("inceptionnext_tiny", image_size=64))
    rest = [one for one in counted if one.place.part == "update"]
    assert sum(one.launches for one in rest) == 25
    steps = {"clipping", "AdamW", "EMA"}
    moved = sum(one.moved_bytes for one in rest if one.place.layer in steps)
    # Norm 4, clipping 8, AdamW 28, EMA 12.
    assert moved / count_params(create_empty_model("inceptionnext_tiny")) == pytest.approx(
        52, abs=0.01
    )


class Small(nn.Module):
    """A depthwise convolution, a dense one, and an addition of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.dense = nn.Conv2d(8, 16, 1, bias=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.dense(self.deep(images) + images)


def test_operators_belong_to_their_layer_in_both_passes_and_cost_what_a_hand_finds() -> None:
    layers = Layers()
    counter = Counter(layers)
    with FakeTensorMode():
        model, images = Small(), torch.empty(2, 8, 4, 4)
        with counter, layers.followed():
            out = model(images)
            with layers.step_of("loss"):
                torch.autograd.backward(out.sum())
    flops: defaultdict[tuple[str, str], float] = defaultdict(float)
    moved: defaultdict[tuple[str, str], float] = defaultdict(float)
    for one in counter.counted:
        flops[one.place] += one.products.flops
        moved[one.place] += one.moved_bytes
    deep, dense = 2 * 2 * 16 * 8 * 9, 2 * 2 * 16 * 8 * 16
    image, result = 4 * 2 * 8 * 16, 4 * 2 * 16 * 16  # bytes
    weights = 4 * 8 * 9, 4 * 8 * 16
    assert flops == {
        ("forward", "Conv2d (depthwise)"): deep,
        ("forward", "Small"): 0,
        ("forward", "Conv2d"): dense,
        ("update", "loss"): 0,
        ("backward", "Conv2d"): 2 * dense,
        ("backward", "Conv2d (depthwise)"): deep,  # images need no gradient
    }
    assert moved["forward", "Conv2d (depthwise)"] == 2 * image + weights[0]
    assert moved["forward", "Small"] == 3 * image
    assert moved["forward", "Conv2d"] == image + result + weights[1]
    # The gradient of a sum is one number, expanded.
    assert moved["backward", "Conv2d"] == 4 + 2 * image + 2 * weights[1]
    assert moved["backward", "Conv2d (depthwise)"] == 2 * image + 2 * weights[0]
    assert {one.place.layer for one in counter.counted if one.products.depthwise} == {
        "Conv2d (depthwise)"
    }


def test_every_operator_of_ixt_has_its_operations() -> None:
    assert set(_OWN) == set(twins)


def ixt(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["bench", "count", *arguments])


def test_the_sums_of_the_json_are_those_of_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ("resnet18", "--image-size", "64", "--batch-size", "8", "--device", "h100")
    found: dict[str, Any] = json.loads(ixt(*given, "--json").output)
    *rows, whole = found["rows"]
    for key in ("launches", "mb", "gflop", "us"):
        passes = [row[key] for row in rows if not row["layer"]]
        assert len(passes) == 3
        assert sum(passes) == pytest.approx(whole[key])
        assert sum(row[key] for row in rows if row["layer"]) == pytest.approx(whole[key])
    assert found["images_per_s"]["these_kernels"] == pytest.approx(1e6 / whole["us"])
    assert whole["gflop"] * 1e9 == pytest.approx(model_costs("resnet18", 64).flops("train"))
    # 11.69 million weights in fp32: clipping reads gradients twice and writes them once; AdamW
    # reads weights, gradients and two moments, and writes all but gradients; EMA has three.
    update = {row["layer"]: 0.0 for row in rows if row["part"] == "update"}
    for row in rows:
        if row["part"] == "update":
            update[row["layer"]] += row["mb"]
    weights = 11.69 * 4 / 8
    assert update["clipping"] == pytest.approx(3 * weights, rel=0.01)
    assert update["AdamW"] == pytest.approx(7 * weights, rel=0.01)
    assert update["EMA"] == pytest.approx(3 * weights, rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resnet_18",), "resnet_18: no such model in timm or the paper"),
        (("resnet18", "--device", "h1000"), "h1000: not a known device"),
        (("resnet18", "--device", "v100"), "v100-32gb: has no bf16; it has fp32, fp16"),
        (("resnet18", "--layers", "fused"), "--layers fused: resnet18 has no layer"),
        (("vit_tiny_patch16_224", "--image-size", "50"), "cannot be counted at 50 pixels"),
    ],
)
def test_what_cannot_be_counted_is_one_line(arguments: tuple[str, ...], message: str) -> None:
    done = ixt(*arguments)
    assert message in str(done.exception)
    assert "\n" not in str(done.exception)
