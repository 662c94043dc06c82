"""A table of limits that was computed by other code is met to its last digit.

It was made with module hooks in place of a dispatch mode, on rounded peaks of the devices.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from ixt.bench.roofline import find_device, limits, mfu
from ixt.errors import EngineError
from ixt.models import Costs, model_costs

A100 = find_device("a100").model_copy(update={"bandwidth_gb_per_s": 2000})
H100 = find_device("h100").model_copy(
    update={"fp32_tflops": 67, "tf32_tflops": 494, "bf16_tflops": 989}
)

# GFLOP; megabytes in TF32 and bf16; (compute, memory, tight) images per second on an A100 in TF32
# and bf16, on an H100 in TF32 and bf16; batch 128.
TRAIN = {
    "inceptionnext_atto": (
        3.01,
        (94, 48),
        (49132, 21248, 20873),
        (92633, 41918, 41187),
        (156331, 35591, 35591),
        (296263, 70213, 70213),
    ),
    "inceptionnext_tiny": (
        25.10,
        (316, 162),
        (6129, 6335, 4691),
        (12069, 12327, 9192),
        (19433, 10611, 10203),
        (38349, 20648, 19882),
    ),
    "inceptionnext_small": (
        50.11,
        (510, 263),
        (3078, 3922, 2577),
        (6079, 7613, 5053),
        (9758, 6569, 6352),
        (19307, 12752, 12350),
    ),
    "inceptionnext_base": (
        89.01,
        (688, 358),
        (1738, 2907, 1539),
        (3442, 5593, 3015),
        (5507, 4869, 4020),
        (10928, 9369, 7792),
    ),
    "inceptionnext_base_384": (
        261.5,
        (1954, 990),
        (592, 1024, 531),
        (1172, 2020, 1055),
        (1875, 1715, 1399),
        (3720, 3383, 2768),
    ),
    "convnext_tiny": (
        26.70,
        (351, 180),
        (5013, 5702, 4125),
        (8627, 11120, 7162),
        (16079, 9550, 9118),
        (27952, 18626, 17279),
    ),
    "resnet50": (
        24.30,
        (312, 160),
        (6420, 6409, 4491),
        (12840, 12498, 8824),
        (20330, 10735, 9521),
        (40701, 20934, 18624),
    ),
}
LARGE = ("inceptionnext_small", "inceptionnext_base_384")

# GFLOP; megabytes; the tight limits on an A100 and on an H100.
INFER = {
    "inceptionnext_atto": (1.01, (32, 16), (61220, 122440), (104347, 208695)),
    "inceptionnext_tiny": (8.38, (106, 53), (14019, 28037), (30459, 60939)),
    "inceptionnext_small": (16.71, (170, 85), (7726, 15452), (19044, 38107)),
    "inceptionnext_base": (29.68, (227, 114), (4639, 9279), (12152, 24318)),
    "inceptionnext_base_384": (87.21, (663, 331), (1579, 3159), (4138, 8281)),
    "convnext_tiny": (8.91, (117, 59), (12337, 21777), (27247, 52856)),
    "resnet50": (8.18, (110, 55), (12953, 25905), (27181, 54373)),
}


# Counting the larger models takes a second each; the smaller ones are built of the same blocks.
ROWS = [pytest.param(name, marks=[pytest.mark.slow] if name in LARGE else []) for name in TRAIN]


@cache
def costs_of(name: str) -> Costs:
    return model_costs(name, 384 if name.endswith("384") else 224)


def rounded(value: float) -> float:
    """Four figures, or two decimals, as in the table."""
    return round(value, 1) if value > 100 else round(value, 2)


@pytest.mark.parametrize("name", ROWS)
def test_training_limits_are_those_of_the_table(name: str) -> None:
    gflop, megabytes, *cells = TRAIN[name]
    costs = costs_of(name)
    assert rounded(costs.flops("train") / 1e9) == gflop
    moved = [costs.traffic_bytes("train", size, 128) / 1e6 for size in (4, 2)]
    assert tuple(round(value) for value in moved) == megabytes
    settings: list[tuple[Any, Any]] = [
        (device, kind) for device in (A100, H100) for kind in ("tf32", "bf16")
    ]
    for (device, kind), expected in zip(settings, cells, strict=True):
        found = limits(costs, device, kind, 128)
        rates = (found.compute_images_per_s, found.memory_images_per_s, found.images_per_s)
        assert tuple(round(rate) for rate in rates) == expected


@pytest.mark.parametrize("name", ROWS)
def test_inference_limits_are_those_of_the_table(name: str) -> None:
    gflop, megabytes, *cells = INFER[name]
    costs = costs_of(name)
    assert rounded(costs.flops("infer") / 1e9) == gflop
    moved = [costs.traffic_bytes("infer", size, 128) / 1e6 for size in (4, 2)]
    assert tuple(round(value) for value in moved) == megabytes
    for device, expected in zip((A100, H100), cells, strict=True):
        found = [
            limits(costs, device, kind, 128, "infer").images_per_s for kind in ("tf32", "bf16")
        ]
        assert tuple(round(rate) for rate in found) == expected


def test_the_papers_rate_is_a_fifth_of_its_limit() -> None:
    costs = costs_of("inceptionnext_tiny")
    assert 901 / limits(costs, A100, "tf32", 128).images_per_s == pytest.approx(0.192, abs=5e-4)
    assert mfu(costs, A100, "tf32", 901) == pytest.approx(0.145, abs=5e-4)
    assert mfu(costs, A100, "tf32", 2900, "infer") == pytest.approx(
        2900 * 8.38e9 / 156e12, rel=1e-3
    )


def test_exact_peaks_move_the_limit_by_less_than_a_thousandth() -> None:
    costs = costs_of("inceptionnext_tiny")
    exact = limits(costs, find_device("h100"), "bf16", 128).images_per_s
    assert exact == pytest.approx(19882, rel=1e-3)


def test_what_binds_is_named() -> None:
    assert limits(costs_of("inceptionnext_tiny"), H100, "bf16", 128).bound == "memory"
    assert limits(costs_of("inceptionnext_base"), A100, "tf32", 128).bound == "compute"


def test_a_device_without_the_precision_is_refused() -> None:
    with pytest.raises(EngineError, match="v100-32gb: has no bf16; it has fp32, fp16"):
        limits(costs_of("resnet50"), find_device("v100"), "bf16", 128)
