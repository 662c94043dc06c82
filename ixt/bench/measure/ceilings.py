"""What this device reaches at best: a copy and large matrix products, timed in a fresh process.

`python -m ixt.bench.measure.ceilings PRECISION...` prints JSON.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import cast

import torch

from ixt.bench.measure.steps import AUTOCAST, Impossible, refuse_impossible_precision, set_math
from ixt.bench.measure.timing import time_step
from ixt.bench.results import Ceilings, Precision, Protocol

_PROTOCOL = Protocol(seconds=1.0, windows=5, agreement=0.02, max_warmup=1.0)
# Large enough to leave the caches and to fill every core; small enough for a CPU's second.
_COPY_MIB = {"cuda": 1024, "cpu": 256}
_MATMUL_SIDE = {"cuda": 8192, "cpu": 2048}


def find_ceilings(precisions: Sequence[Precision]) -> Ceilings | None:
    """Measure in a fresh process, as cells are; None where that fails.

    Products of precisions that the device lacks are left out.
    """
    command = [sys.executable, "-m", "ixt.bench.measure.ceilings", *dict.fromkeys(precisions)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return None
    return Ceilings.model_validate_json(done.stdout.splitlines()[-1])


def measure_ceilings(
    precisions: Sequence[Precision],
    device: torch.device,
    protocol: Protocol = _PROTOCOL,
    *,
    copy_mib: int,
    matmul_side: int,
) -> Ceilings:
    """Time a copy and a square matrix product per precision.

    Precisions that the device lacks are left out. `copy_mib` is the size of the tensor that is
    copied, `matmul_side` the number of the matrices' rows and columns.
    """
    source = torch.randn(copy_mib * 2**18, device=device)
    target = torch.empty_like(source)
    copied = 2 * source.nbytes / _seconds(lambda: target.copy_(source), protocol, device)
    tflops: dict[Precision, float] = {}
    for precision in precisions:
        try:
            refuse_impossible_precision(precision, device)
        except Impossible:
            continue
        step = _product(precision, matmul_side, device)
        tflops[precision] = 2 * matmul_side**3 / _seconds(step, protocol, device) / 1e12
    return Ceilings(copy_gb_per_s=copied / 1e9, matmul_tflops=tflops)


def _product(precision: Precision, side: int, device: torch.device) -> Callable[[], object]:
    set_math(precision)
    dtype = AUTOCAST.get(precision, torch.bfloat16 if precision == "bf16" else torch.float32)
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=out)


def _seconds(step: Callable[[], object], protocol: Protocol, device: torch.device) -> float:
    # The fastest window: a ceiling is what was reached, not what is usual.
    return min(time_step(step, protocol, device).seconds_per_step)


def main() -> None:
    """Measure the precisions named on the command line and print the result as the last line."""
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    found = measure_ceilings(
        cast("list[Precision]", sys.argv[1:]),
        torch.device(kind),
        copy_mib=_COPY_MIB[kind],
        matmul_side=_MATMUL_SIDE[kind],
    )
    print(found.model_dump_json())


if __name__ == "__main__":
    main()
