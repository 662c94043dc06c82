"""The Triton kernels, run by Triton's interpreter on a CPU, against float64 autograd."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

# The largest error over the largest value. fp16: half of a result's last bit; bf16: a whole one,
# which the interpreter cuts off instead of rounding. Gradients of weights are fp32 all the same.
LAST_BIT = {"float32": 2e-6, "float16": 2.0**-11, "bfloat16": 2.0**-7}
FP32 = 2e-6


def check(*sizes: str) -> None:
    seed = random.randrange(10**6)
    script = Path(__file__).with_name("interpreted.py")
    done = subprocess.run(
        [sys.executable, str(script), str(seed), *sizes],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert len(results) == len(sizes)
    for size, errors in zip(sizes, results, strict=True):
        assert len(errors) == 8
        for name, error in errors.items():
            limit = LAST_BIT[size.split(",")[-2]] if name in ("output", "input") else FP32
            assert error <= 1.01 * limit, (seed, size, name, error)


def test_kernels_agree_with_float64_on_odd_sizes() -> None:
    check(
        "1,40,10,5,7,3,9,1,float32,channels_last",
        "2,7,2,9,8,3,5,1,bfloat16,channels_last",
        "1,4,1,6,5,3,3,1,float32,contiguous_format",
    )


@pytest.mark.slow
@pytest.mark.parametrize("order", ["channels_last", "contiguous_format"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_kernels_agree_with_float64_on_many_sizes(order: str, dtype: str) -> None:
    sizes = (
        "1,96,12,13,11,3,11,1",  # InceptionNeXt-T's first stage; more than one tile
        "2,40,10,7,7,3,9,1",  # atto's
        "1,192,24,7,7,3,11,1",  # idle lanes
        "3,48,16,4,5,3,11,1",  # no channel passes
        "1,10,3,1,1,3,11,1",  # one pixel
        "2,17,5,1,9,5,7,1",  # one row, a larger square
        "2,12,2,9,12,3,5,2",  # dilation
        "1,109,33,3,3,3,3,1",  # a branch of several blocks, the last nearly empty
    )
    check(*(f"{size},{dtype},{order}" for size in sizes))
