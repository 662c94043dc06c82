"""The Triton kernels, run by Triton's interpreter on a CPU, against float64."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from ixt.kernels.shapes import TILES

pytest.importorskip("triton")

# The largest error over the largest value. fp16: half of a result's last bit; bf16: a whole one,
# which the interpreter cuts off instead of rounding. What is kept in fp32 is so all the same.
LAST_BIT = {"float32": 2e-6, "bfloat16": 2.0**-7, "float16": 2.0**-11}
FP32 = 2e-6
MIX = "3x3+1x11+11x1"


def check(*cases: str) -> None:
    seed = random.randrange(10**6)
    script = Path(__file__).with_name("interpreted.py")
    done = subprocess.run(
        [sys.executable, str(script), str(seed), *cases],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert len(results) == len(cases)
    for case, errors in zip(cases, results, strict=True):
        dtype = next(name for name in LAST_BIT if name in case)
        # What a whole MLP rounds on the way, its result does not show.
        bits = 2 if case.startswith("whole") else 1
        assert len(errors) >= 4
        for name, error in errors.items():
            is_wide = name.startswith(("weight", "wide", "moments", "unbiased"))
            limit = FP32 if is_wide else bits * LAST_BIT[dtype]
            assert error <= 1.01 * limit, (seed, case, name, error)


def test_kernels_agree_with_float64_on_odd_sizes() -> None:
    check(
        "bands:1,40,10,5,7,3x3+1x9+9x1,1,float32,channels_last",
        "bands:2,5,5,3,6,5x5,1,bfloat16,channels_last",
        "bands:1,4,1,6,5,3x3+1x3+3x1,1,float32,contiguous_format",
        "norm:2,9,2,9,8,3x3+1x5+5x1,1,bfloat16,channels_last",
        "mlp:3,7,20,70,1,bfloat16",
        "products:3,27,20,70,1,64x64,bfloat16",
        "products:1,5,130,33,0,128x64s,float32",
        "whole:3,27,24,70,1,float32",
        "whole:1,5,40,33,0,bfloat16",
    )


# InceptionNeXt-T's first stage (more than one tile), atto's, idle lanes, no channel that passes,
# one pixel, one row with a larger square, dilation, a branch of several blocks; ConvNeXt's 7x7 and
# 5x5, and the paper's partial 3x3.
SIZES = (
    f"1,96,12,13,11,{MIX},1", "2,40,10,7,7,3x3+1x9+9x1,1", f"1,192,24,7,7,{MIX},1",
    f"3,48,16,4,5,{MIX},1", f"1,10,3,1,1,{MIX},1", "2,17,5,1,9,5x5+1x7+7x1,1",
    "2,12,2,9,12,3x3+1x5+5x1,2", "1,109,33,3,3,3x3+1x3+3x1,1",
    "1,24,24,9,13,7x7,1", "2,7,7,6,5,5x5,1", "2,40,15,5,6,3x3,1",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bands", "norm"])
@pytest.mark.parametrize("order", ["channels_last", "contiguous_format"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_kernels_agree_with_float64_on_many_sizes(order: str, dtype: str, kind: str) -> None:
    if kind == "norm" and order == "contiguous_format":
        pytest.skip("blocks are folded in NHWC only")
    # The statistics of one pixel are not compared: their variance is 0.
    sizes = [size for size in SIZES if kind == "bands" or ",1,1,3x3" not in size]
    check(*(f"{kind}:{size},{dtype},{order}" for size in sizes))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_kernels_around_the_products_agree_with_float64(dtype: str) -> None:
    sizes = ("2,17,130,33,0", "5,1,3,200,1", "1,40,96,384,1", "3,11,64,16,0")
    check(*(f"mlp:{size},{dtype}" for size in sizes))


# Whole tiles, a stage of T, one row and column, depths beside a step's, more rows than a group has.
@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("tile", TILES)
def test_products_that_finish_their_results_agree_with_float64(tile: str, dtype: str) -> None:
    sizes = ("2,64,64,128,1", "3,43,96,384,1", "1,1,1,1,0", "5,26,40,160,0", "9,131,17,33,1")
    check(*(f"products:{size},{tile},{dtype}" for size in sizes))


# Whole blocks, a stage of T and of atto, one row and column, more blocks than chunks.
@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_whole_mlps_agree_with_float64(dtype: str) -> None:
    sizes = ("2,64,64,128,1", "3,43,96,384,1", "1,1,1,1,0", "5,53,40,160,0", "2,31,128,70,1")
    check(*(f"whole:{size},{dtype}" for size in sizes))
